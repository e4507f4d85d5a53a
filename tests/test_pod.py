"""`sessionrec pod`: the reader of compiled programs counts what they send, and wrong input is one message.

The real compilers run only where they are installed.
"""

from __future__ import annotations

import dataclasses
import json

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from experiments.__main__ import main
from experiments.cli import pod
from experiments.cli.show_pod import warnings
from experiments.pod import hlo, page, topology, verdict
from experiments.pod.child import found, used_bytes
from experiments.pod.chips import CHIPS
from experiments.pod.groups import Layout, groups_of
from experiments.pod.hlo_text import shape_bytes
from experiments.pod.job import PROGRAMS, Job, Shapes
from experiments.pod.launch import check_compiler
from sessionrec_jax.config.settings import Config, Mesh
from sessionrec_jax.config.values import replace
from sessionrec_jax.devices.mesh import make_mesh
from sessionrec_jax.errors import InputError

LAYOUT = Layout((("data", 4), ("fsdp", 1), ("model", 2)), (0, 0, 0, 0, 1, 1, 1, 1), tuple((n, 0) for n in range(8)))
NO_TABLE = hlo.Part(-1, 1e18)
LINKS = hlo.Links(1e9, 1e8)
HEAD = """HloModule jit_step, is_scheduled=true

FileNames
1 "folder/training/step.py"

FunctionNames
1 "step"

FileLocations
1 {file_name_id=1 function_name_id=1 line=28 end_line=28 column=15 end_column=15}

StackFrames
1 {file_location_id=1 parent_frame_id=1}

%sum (a: f32[], b: f32[]) -> f32[] {
  %a = f32[] parameter(0)
  %b = f32[] parameter(1)
  ROOT %c = f32[] add(%a, %b)
}

%body (p: (s32[], f32[16,100])) -> (s32[], f32[16,100]) {
  %p = (s32[], f32[16,100]{1,0:T(8,128)}) parameter(0)
  %i = s32[] get-tuple-element(%p), index=0
  %x = f32[16,100]{1,0:T(8,128)} get-tuple-element(%p), index=1
  %all-reduce.1 = f32[16,100]{1,0:T(8,128)} all-reduce(%x), channel_id=1, GROUPS, to_apply=%sum, stack_frame_id=1
  ROOT %t = (s32[], f32[16,100]) tuple(%i, %all-reduce.1)
}

%condition (p: (s32[], f32[16,100])) -> pred[] {
  %n = s32[] CONSTANT
  %p.1 = (s32[], f32[16,100]) parameter(0)
  %j = s32[] get-tuple-element(%p.1), index=0
  ROOT %lt = pred[] compare(%j, %n), direction=LT
}

%fused (q: f32[16,100]) -> f32[16,100] {
  %q = f32[16,100]{1,0} parameter(0)
  ROOT %copy.2 = f32[16,100]{0,1} copy(%q)
}

ENTRY %main (x: f32[16,100]) -> f32[16,100] {
  %x.1 = f32[16,100]{1,0} parameter(0)
  %y = f32[16,100]{0,1} fusion(%x.1), kind=kLoop, calls=%fused, backend_config={"estimated_cycles":"70"}
  %copy.3 = bf16[16,100]{0,1} copy(%x.1), backend_config={"estimated_cycles":"30"}
  %init = (s32[], f32[16,100]) tuple(%x.1, %y)
  %while.1 = (s32[], f32[16,100]) while(%init), condition=%condition, body=%body
  ROOT %out = f32[16,100] get-tuple-element(%while.1), index=1
}
"""


def written(
    groups: str = "replica_groups={{0,2,4,6},{1,3,5,7}}", constant: str = "constant(5)", copy: str = "copy", **rest
) -> hlo.Findings:
    text = HEAD.replace("GROUPS", groups).replace("CONSTANT", constant).replace("copy(%x.1)", f"{copy}(%x.1)")
    return hlo.read(text, LAYOUT, **{"table": NO_TABLE, "links": LINKS} | rest)


def test_a_collective_in_a_loop_counts_as_often_as_the_loop_turns():
    (one,) = written().collectives
    assert (one.kind, one.axes, one.devices, one.times) == ("all-reduce", "data", 4, 5)
    assert one.sent_bytes == 5 * 2 * 6400 * 3 / 4
    assert one.line == "training/step.py:28"
    assert one.dcn_bytes == 5 * 2 * 6400 / 2 * 1 / 2  # each slice of two devices sends half of the array's halves
    assert one.seconds == pytest.approx((one.sent_bytes - one.dcn_bytes) / 2e9 + one.dcn_bytes / 1e8)


@pytest.mark.parametrize(
    ("reader", "kind"),
    [
        ("f32[4,100] dynamic-slice(%r, %k)", "reduce-scatter"),
        ("f32[4,100] dynamic-slice(%e, %k)", "reduce-scatter"),
        ("f32[4,100] fusion(%r, %k)", "all-reduce"),
    ],
)
def test_a_fused_sum_of_which_a_device_keeps_a_part_is_a_reduce_scatter(reader, kind):
    """So a TPU writes its reduce-scatter."""
    fused = "  %r = f32[16,100] all-reduce(%q), channel_id=9, replica_groups={{0,2,4,6},{1,3,5,7}}, to_apply=%sum\n"
    fused += f"  %e = f32[16,100] get-tuple-element(%r), index=0\n  ROOT %cut = {reader}\n"
    fused = fused if "%e," in reader else "\n".join(line for line in fused.splitlines() if "%e =" not in line) + "\n"
    text = HEAD.replace("  ROOT %copy.2 = f32[16,100]{0,1} copy(%q)\n", fused).replace("CONSTANT", "constant(5)")
    found = hlo.read(text.replace("GROUPS", "replica_groups={}"), LAYOUT, table=NO_TABLE, links=LINKS).collectives
    (one,) = [one for one in found if one.times == 1]
    assert (one.kind, one.sent_bytes) == (kind, 6400 * 3 / 4 * (2 if kind == "all-reduce" else 1))


def test_a_loop_of_unknown_turns_counts_once_and_is_reported():
    found = written(constant="parameter(1)")
    assert [(one.times, one.in_open_loop) for one in found.collectives] == [(1, True)]
    assert found.unknown_loops == ["while.1"]
    assert not written().unknown_loops


def test_a_collective_within_a_slice_sends_nothing_to_another():
    (one,) = written("replica_groups={{0,1},{2,3},{4,5},{6,7}}").collectives
    assert (one.axes, one.dcn_bytes) == ("model", 0)


@pytest.mark.parametrize(
    ("target", "kind", "axes", "dcn"),
    [
        ('"{1,2}x{0:3}"', "ALL_REDUCE", "data", 2 * 6400 / 2),
        ("{{100000,100001,200000,200001}}", "ALL_TO_ALL", "data,model", 6400 / 2),
    ],
)
def test_a_transfer_between_slices_is_a_collective_over_the_data_centre_network(target, kind, axes, dcn):
    sent = "(f32[16,100], u32[], token[]) send(%x, %after), channel_id=3, is_host_transfer=true, frontend_attributes={"
    sent += '_xla_host_transfer_rendezvous="psum.6_0",_xla_megascale_reduce_operation="SUM",'
    sent += f'_xla_megascale_target={target},_xla_megascale_transfer_type="{kind}"}}'
    text = HEAD.replace("f32[16,100]{1,0:T(8,128)} all-reduce(%x), channel_id=1, GROUPS", sent)
    layout = LAYOUT._replace(id_of=(*range(100_000, 100_004), *range(200_000, 200_004)))
    text = text.replace("CONSTANT", "constant(1)")
    (one,) = hlo.read(text, layout, table=hlo.Part(16, 6400.0), links=LINKS).collectives
    assert (one.kind, one.axes, one.dcn_bytes) == (kind.lower().replace("_", "-"), axes, dcn)
    assert one.seconds == pytest.approx(dcn / 1e8)


@pytest.mark.parametrize(
    ("text", "groups"),
    [
        ("replica_groups={{0,2},{1,3}}, x", [[0, 2], [1, 3]]),
        ("replica_groups=[2,2]<=[4], x", [[0, 1], [2, 3]]),
        ("replica_groups=[2,2]<=[2,2]T(1,0), x", [[0, 2], [1, 3]]),
        ("replica_groups=mesh['a'=2,'b'=2] {'b'}, x", [[0, 1], [2, 3]]),
        ("replica_groups=mesh['a'=2,'b'=2] {'a'}, x", [[0, 2], [1, 3]]),
        ("replica_groups=mesh['a'=2,'b'=2], device_ids=([2,2]T(1,0)) {'b'}, x", [[0, 2], [1, 3]]),
        ("replica_groups=mesh['a'=4] {'a':(2)2}, x", [[0, 1], [2, 3]]),
        ("replica_groups=mesh['a'=4] {'a':(1)2}, x", [[0, 2], [1, 3]]),
        ("source_target_pairs={{0,1},{1,0}}, x", [[0, 1], [1, 0]]),
        ("replica_groups={}, x", [[0, 1, 2, 3]]),
    ],
)
def test_groups_are_read_in_every_form(text, groups):
    assert groups_of(text, 4) == groups


@pytest.mark.parametrize("copy", ["copy", "convert"])
def test_copies_as_large_as_a_part_of_a_table_are_found(copy):
    table = hlo.Part(16, 6400.0)
    found = {(move.kind, move.name, move.bytes) for move in written(table=table, copy=copy).moves}
    assert found == {(copy, "copy.3", 6400), ("fusion", "y", 6400)}
    assert not written(table=hlo.Part(17, 6400.0)).moves
    assert not written(table=hlo.Part(16, 64000.0)).moves


@pytest.mark.parametrize(
    ("old", "new", "on_chip"),
    [
        ("{1,0:T(8,128)}", "{1,0:T(8,128)S(1)}", True),
        ("{1,0:T(8,128)}", "{0,1:T(8,128)S(1)}", False),
        ("{1,0:T(8,128)}", "{0,1:T(8,128)}", False),
        ("", "", False),
    ],
)
def test_a_copy_to_on_chip_memory_in_the_same_layout_is_known(old, new, on_chip):
    text = f"ENTRY %main () -> f32[16,100] {{\n  %x = f32[16,100]{old} parameter(0)\n"
    text += f"  ROOT %copy.1 = f32[16,100]{new} copy(%x)\n}}\n"
    (move,) = hlo.read(text, LAYOUT, table=hlo.Part(16, 6400.0), links=LINKS).moves
    assert move.on_chip == on_chip


def test_cycles_are_added_up_and_what_has_none_is_counted():
    found = written()
    assert found.cycles == 100
    assert found.unestimated == {}


def test_bytes_of_types():
    assert shape_bytes("(f32[2,3]{1,0:T(8,128)}, bf16[4], pred[], u32[]{:S(2)})") == 24 + 8 + 1 + 4


def test_a_scan_compiled_for_eight_devices():
    """The program all-reduces 64 floats in each of five turns, and gathers 16 of 128 once."""
    mesh = make_mesh(Mesh(4, 1, 2))
    spread = NamedSharding(mesh, PartitionSpec(("data", "model")))

    def total(x):
        def turn(carry, _):
            return jax.lax.psum(carry * 1.5, ("data",)) / 4, None

        return jax.lax.scan(turn, x, None, length=5)[0]

    summed = jax.shard_map(total, mesh=mesh, in_specs=PartitionSpec("model"), out_specs=PartitionSpec("model"))
    gathered = jax.jit(lambda x, y: (summed(x), y * 2), out_shardings=(None, NamedSharding(mesh, PartitionSpec())))
    shape = jax.ShapeDtypeStruct((128,), jnp.float32)
    y = jax.ShapeDtypeStruct((128,), jnp.float32, sharding=spread)
    text = gathered.lower(shape, y).compile().as_text()
    found = hlo.read(text, Layout.of(mesh), table=NO_TABLE, links=LINKS)
    sent = {one.kind: (one.times, one.axes, one.sent_bytes) for one in found.collectives}
    assert sent["all-reduce"] == (5, "data", 5 * 2 * 64 * 4 * 3 / 4)
    assert sent["all-gather"] == (1, "data,model", 7 * 16 * 4)


@pytest.fixture(scope="module")
def small() -> Job:
    sizes = {"model.width": 8, "model.layers": 3, "model.id_width": 8, "data.sessions_per_row": 8, "mesh.data": 4,
             "mesh.model": 2, "loss.negatives": 16, "optim.table_update": "sparse"}  # fmt: skip
    return Job(
        "v5e:4x4", 1, replace(Config(), sizes), Shapes(items=200_000, rows_per_shard=2, side_values=(7,)), PROGRAMS
    )


@pytest.fixture(scope="module")
def of_small(small):
    """Returns what is found of the step alone."""
    return found(dataclasses.replace(small, programs=("step",)), jax.devices())


def test_a_job_travels_as_json(small):
    assert Job.from_dict(json.loads(json.dumps(small.to_dict()))) == small


@pytest.mark.slow
def test_every_program_of_a_run_compiles_on_shapes_alone(small):
    programs = found(small, jax.devices())["programs"]
    assert tuple(programs) == PROGRAMS
    for name, program in programs.items():
        assert program["peak_bytes"] > 0, name
        assert all(one["sent_bytes"] > 0 for one in program["collectives"]), name


def test_the_step_of_a_run_compiles_on_shapes_alone(of_small):
    assert tuple(of_small["programs"]) == ("step",)
    assert (of_small["devices"], of_small["rows"], of_small["rows_per_device"]) == (8, 8, 1)
    assert of_small["flops"] > 0
    step = of_small["programs"]["step"]
    assert step["peak_bytes"] > 0
    assert all(one["sent_bytes"] > 0 for one in step["collectives"])
    assert of_small["state_bytes"] < step["arguments_bytes"] < 2 * of_small["state_bytes"]
    axes = {one["axes"] for one in step["collectives"]}
    assert {"data", "data,model"} <= axes
    assert any("devices/exchange.py" in (one["line"] or "") for one in step["collectives"])
    json.dumps(of_small)


def test_what_is_printed_names_memory_traffic_and_advice(of_small, capsys):
    from experiments.cli.show_pod import show, weak_scaling_table

    show(of_small, CHIPS["v5e"], "v5e:4x4", 1)
    said = capsys.readouterr().out
    assert all(word in said for word in ("fits", "all-reduce", "exchange.py", "data-centre network"))
    refused = of_small | {"programs": {"step": {"out_of_memory_bytes": 40e9, "words": "RESOURCE_EXHAUSTED: [x]"}}}
    show(refused, CHIPS["v5e"], "v5e:4x4", 2)
    said = capsys.readouterr().out
    assert all(word in said for word in ("too large", "40.000", "--train.microbatches 8", "RESOURCE_EXHAUSTED: [x]"))
    assert weak_scaling_table([("v5e:4x4", of_small), ("v5e:8x8", refused)], CHIPS["v5e"]).row_count == 2


def test_a_state_too_large_for_any_microbatch_wants_more_chips(of_small):
    large = of_small | {"devices": 16, "state_bytes": 40e9}
    assert "about 64 chips" in verdict.advice(large, CHIPS["v5e"], 1)
    assert not verdict.fits({"peak_bytes": 17e9}, CHIPS["v5e"])


def test_remat_sends_no_sum_over_model_twice(of_small):
    """A layer has two sums forward, of attention and of the MLP, and two backward."""
    sums = [one for one in of_small["programs"]["step"]["collectives"] if one["axes"] == "model"]
    assert 3 * 4 <= max(one["times"] for one in sums if one["kind"] == "all-reduce") < 3 * 5


def test_a_copy_of_narrow_rows_names_the_width_that_needs_none(of_small):
    move = {"kind": "copy", "bytes": 1e9, "times": 1, "name": "copy.1", "line": None, "on_chip": False}
    moved = of_small | {"id_width": 200, "programs": {"step": of_small["programs"]["step"] | {"moves": [move]}}}
    assert [line for line in warnings(moved, CHIPS["v5e"]) if "--model.id-width 256" in line]
    assert len(warnings(moved | {"id_width": 256}, CHIPS["v5e"])) == len(warnings(moved, CHIPS["H100"])) == 1
    move["on_chip"] = True
    (line,) = warnings(moved, CHIPS["v5e"])
    assert "on-chip memory" in line


def test_bytes_of_a_refusal():
    assert used_bytes("Ran out of memory in memory space hbm. Used 28.50G of 15.75G hbm.") == 28.5 * 2**30
    assert used_bytes("the total memory required for HLO temporaries (80.37G) exceeds") == 80.37 * 2**30
    assert used_bytes("no number") is None


@pytest.mark.parametrize(
    ("argv", "names"),
    [
        (["--topology", "v5e"], ["'v5e'", "v5e:4x4"]),
        (["--topology", "v9x:4x4"], ["v9x", "known: ", "v5p"]),
        (["--topology", "v5p:4x4"], ["v5p:4x4", "3 sizes", "v5p:2x2x4"]),
        (["--topology", "H100:8"], ["H100:8", "machines x GPUs of a machine", "H100:2x8"]),
        (["--topology", "H100:2x8", "--slices", "2"], ["--slices 2", "H100:2x8 counts machines"]),
        (["--topology", "v5e:4x4", "--mesh", "data=4,model=2"], ["8 devices", "has 16", "data=8,fsdp=1,model=2"]),
        (["--topology", "v5e:4x4", "--mesh", "model=32"], ["has 16", "data=16,fsdp=1,model=1"]),
        (["--topology", "v5e:4x4", "--items", "0"], ["--items is 0"]),
        (["--topology", "v5e:4x4", "--model.heads", "3"], ["model.heads is 3"]),
        (["--topology", "v5e:4x4", "--weak-scaling", "--data.rows", "64"], ["--rows-per-shard"]),
    ],
)
def test_wrong_input_is_one_message(argv, names, capsys):
    assert main(["pod", *argv]) == 2
    said = " ".join(capsys.readouterr().err.split())
    assert said.startswith("error:")
    assert all(name in said for name in names), said


@pytest.mark.parametrize(("chip", "extra"), [("v5e", "pod-tpu"), ("H100", "pod-gpu")])
def test_a_missing_compiler_is_one_message(chip, extra, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(InputError, match=rf"pip install \"sessionrec-jax\[{extra}\]\""):
        check_compiler(CHIPS[chip])


def test_the_ladder_keeps_slices_on_which_the_mesh_fits():
    assert [step.devices for step in topology.ladder(topology.parse("v5p:4x4x4"), Mesh(0, 1, 32))] == [
        64,
        256,
        1024,
        4096,
    ]
    assert [step.name for step in topology.ladder(topology.parse("v5e:4x4"), Mesh(0, 1, 4))][-1] == "v5e:16x16"
    assert [step.devices for step in topology.ladder(topology.parse("H100:1x8"), Mesh(0, 1, 1))][-1] == 4096


def test_the_command_writes_what_it_found(of_small, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(pod, "check_compiler", lambda chip: None)
    monkeypatch.setattr(pod, "compile_job", lambda job: of_small | {"asked": job.topology})
    file = tmp_path / "pod.json"
    assert main(["pod", "--topology", "v5e:4x4", "--mesh", "model=4", "--json", str(file)]) == 0
    assert json.loads(file.read_text())[0]["slice"] == "v5e:4x4"
    assert main(["pod", "--topology", "v5e:4x4", "--mesh", "model=4", "--weak-scaling", "--json", str(file)]) == 0
    assert [run["asked"] for run in json.loads(file.read_text())] == ["v5e:4x4", "v5e:8x8", "v5e:16x16"]
    assert "v5e:16x16" in capsys.readouterr().out


def test_links_within_a_machine_and_within_a_slice():
    """A GPU has one link to its switch; a TPU sends both ways in each dimension along which a group differs."""
    torus = Layout((("data", 4),), (0,) * 4, ((0, 0), (0, 1), (1, 0), (1, 1)))
    assert [torus.links_of(group) for group in ([0, 1], [0, 3])] == [2, 4]
    assert torus._replace(place_of=((),) * 4).links_of([0, 3]) == 1


def test_the_page_shows_bytes_and_time_by_kind(of_small, tmp_path):
    refused = of_small | {"programs": {"step": {"out_of_memory_bytes": 40e9}}}
    runs = [("v5e:4x4", of_small), ("v5e:8x8", of_small | {"devices": 64}), ("v5e:16x16", refused)]
    page.write(tmp_path / "pod.html", runs, CHIPS["v5e"])
    text = (tmp_path / "pod.html").read_text()
    assert all(word in text for word in ("vegaEmbed(place", "v5e:16x16", "40.00, too large", "Google Cloud"))
    rows = page.bytes_by_kind(runs[:2])
    assert {row["devices"] for row in rows} == {8, 64}
    total = sum(row["value"] for row in rows if row["devices"] == 8)
    assert total == pytest.approx(verdict.sent_bytes(of_small["programs"]["step"]) / 1e6)
    assert page.PRODUCTS in {row["kind"] for row in page.milliseconds_by_kind(runs[:2], CHIPS["v5e"])}

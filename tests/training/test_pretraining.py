"""Pretraining of the small backbone: it learns, goes on where it stopped, and its file loads as a backbone."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file

from reincli.config import BackboneSettings, PretrainSettings
from reincli.errors import ReinError
from reincli.generated.world_light import draw_worlds
from reincli.model import dense_heads
from reincli.model.backbones import build_backbone
from reincli.model.dense_heads import DenseHeads, Truth, change_with_light, same_surface
from reincli.training.pretrain import Pretraining, pretrain, truth_of, unfinished_of

BODY = BackboneSettings(name="vit", width=32, depth=4, heads=2, patch_size=8)
CPU = torch.device("cpu")


def settings(**changes: object) -> PretrainSettings:
    return PretrainSettings(**{"backbone": BODY, "side": 32, "steps": 8, "tokens": 64, "warmup": 2} | changes)  # type: ignore[arg-type]


def test_the_truth_is_that_of_the_cells():
    worlds = draw_worlds(torch.Generator().manual_seed(0), 2, 32)
    truth = truth_of(worlds, 2, torch.Generator().manual_seed(0))
    assert truth.surface.shape == (2, 16, 16)
    assert truth.normal.shape == (2, 3, 16, 16)
    assert torch.equal(truth.surface, worlds.surface[:, 1::2, 1::2])
    assert 0 <= int(truth.compared.min()) <= int(truth.compared.max()) < 16 * 16
    assert float(truth.depth.min()) >= 0
    assert float(truth.depth.max()) == 1
    surface = worlds.surface[:, 1::2, 1::2]
    assert bool(truth.edge[0, 0, 4, 5]) == bool(
        (surface[0, 4, 5] != surface[0, 4, 6]) or (surface[0, 4, 5] != surface[0, 5, 5])
    )


def test_a_perfect_read_out_has_no_loss_but_the_spread_of_its_similarities(monkeypatch):
    monkeypatch.setattr(dense_heads, "TEMPERATURE", 0.01)
    truth = truth_of(
        draw_worlds(torch.Generator().manual_seed(1), 2, 32), 2, torch.Generator().manual_seed(1)
    )
    apart = truth.surface % dense_heads.EMBEDDING  # surfaces that share a direction are few
    directions = torch.nn.functional.one_hot(apart, dense_heads.EMBEDDING).permute(0, 3, 1, 2).float()
    told = torch.cat([directions, truth.depth, truth.normal, truth.albedo, 60.0 * truth.edge - 30], dim=1)
    heads, maps = DenseHeads(32, 4), torch.zeros(2, 4, 4, 32)
    losses, worse = heads.compare(maps, told, truth), heads.compare(maps, told.roll(3, dims=-1), truth)
    for name in ("depth", "normal", "albedo", "edge"):
        assert float(getattr(losses, name)) < 1e-3 < float(getattr(worse, name))
    assert float(losses.region) < float(worse.region)
    assert float(losses.right) > float(worse.right)


def test_cells_of_a_surface_attract_and_others_do_not():
    surface = torch.tensor([[[0, 0, 1, 1, 2]]])  # the last one has no company
    flat = torch.zeros(1, 1, 1, 5)
    truth = Truth(surface, torch.arange(5), flat, flat, flat, flat)
    cells = torch.tensor([[1.0, 0], [1, 0], [0, 2], [0, 2], [-1, -1]]).t()[None, :, None]
    loss, right = same_surface(cells, truth)
    alike = torch.tensor([1.0, 0, 0, -(0.5**0.5)]) / dense_heads.TEMPERATURE  # of any of the first four
    assert float(loss) == pytest.approx(float(alike.logsumexp(0) - alike[0]), rel=1e-3)
    assert float(right) == 1
    mixed_up, wrong = same_surface(cells[..., [0, 2, 1, 3, 4]], truth)
    assert float(mixed_up) > 4
    assert float(wrong) == 0


def test_cells_attract_across_the_lights_of_a_world():
    surface = torch.tensor([[[0, 1]]]).repeat(2, 1, 1)  # alone in each light, in company in both
    flat = torch.zeros(2, 1, 1, 2)
    truth = Truth(surface, torch.arange(2), flat, flat, flat, flat, lights=2)
    cells = torch.eye(2)[:, None]  # E = 2, one row of two cells
    _, right = same_surface(torch.stack([cells, cells]), truth)
    _, wrong = same_surface(torch.stack([cells, cells.flip(-1)]), truth)
    assert float(right) == 1
    assert float(wrong) == 0


def test_what_changes_with_light_is_measured_against_what_differs_between_worlds():
    dice = torch.Generator().manual_seed(0)
    one, two = torch.randn(2, 64, 4, 4, 8, generator=dice)
    place = 100 * torch.randn(1, 4, 4, 8, generator=dice)
    assert float(change_with_light(torch.cat([one, one]), 2)) == 0
    assert float(change_with_light(torch.cat([one, two]), 2)) == pytest.approx(1, abs=0.05)
    assert float(change_with_light(torch.cat([one, two]) + place, 2)) == pytest.approx(1, abs=0.05)
    half = change_with_light(torch.cat([one, (one + two) / 2**0.5]), 2)
    assert float(half) == pytest.approx(1 - 0.5**0.5, abs=0.05)
    assert float(change_with_light(one, 1)) == 0


def test_features_become_alike_in_two_lights():
    run = Pretraining(settings(steps=40, tokens=128, warmup=5, lights=2), CPU, "fp32")
    worlds = run.draw()
    assert len(worlds.image) == 32
    assert torch.equal(worlds.albedo[:16], worlds.albedo[16:])
    seen = [run.step() for _ in range(40)]
    assert sum(float(each.total().detach()) for each in seen[-8:]) < 0.85 * sum(
        float(each.total().detach()) for each in seen[:8]
    )
    assert all(0 < float(each.light.detach()) < 1 for each in seen)


def test_it_learns():
    run = Pretraining(settings(steps=40, tokens=256, warmup=5), CPU, "fp32")
    seen = [float(run.step().total().detach()) for _ in range(40)]
    assert sum(seen[-8:]) < 0.85 * sum(seen[:8])


def test_a_stopped_run_goes_on_to_the_same_weights(tmp_path):
    straight = tmp_path / "straight.safetensors"
    pretrain(Pretraining(settings(), CPU, "fp32"), straight)

    path = tmp_path / "again.safetensors"
    first = Pretraining(settings(), CPU, "fp32")

    def stop() -> None:
        if first.step_number == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pretrain(first, path, on_step=stop)
    assert unfinished_of(path).exists()
    assert not path.exists()
    second = Pretraining(settings(), CPU, "fp32")
    second.resume(unfinished_of(path))
    assert second.step_number == 5
    pretrain(second, path)
    assert not unfinished_of(path).exists()
    one, two = load_file(straight), load_file(path)
    assert one.keys() == two.keys()
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_the_file_is_a_backbone_in_half_precision(tmp_path):
    path = tmp_path / "mini.safetensors"
    pretrain(Pretraining(settings(steps=2), CPU, "fp32"), path)
    state = load_file(path)
    assert {value.dtype for value in state.values()} == {torch.float16}
    build_backbone(BODY, 4).body.load_state_dict({name: value.float() for name, value in state.items()})


def test_an_unfinished_run_of_other_settings_is_not_continued(tmp_path):
    run = Pretraining(settings(), CPU, "fp32")
    run.save(tmp_path / "x.unfinished.pth")
    with pytest.raises(ReinError, match="other settings"):
        Pretraining(settings(seed=1), CPU, "fp32").resume(tmp_path / "x.unfinished.pth")


def test_sizes_that_do_not_fit_are_refused():
    with pytest.raises(ReinError, match="multiple of twice the patch"):
        Pretraining(settings(side=40), CPU, "fp32")

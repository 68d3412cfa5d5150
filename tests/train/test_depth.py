from __future__ import annotations

import pytest
import torch
from torch import nn

from abbe.methods.catalog import entry, module_of
from abbe.train.depth import layer_depths
from abbe.train.recipe import TrainConfig
from abbe.train.schedule import build_optimizers


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(4, 4, 3)
        self.norm = nn.BatchNorm2d(4)


class Stage(nn.Module):
    def __init__(self, down: bool) -> None:
        super().__init__()
        self.down = nn.Conv2d(4, 4, 2) if down else nn.Identity()
        self.blocks = nn.Sequential(Block(), Block())


class Staged(nn.Module):
    """As ConvNeXt: stages with a step down before their blocks."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 4, 4), nn.BatchNorm2d(4))
        self.stages = nn.Sequential(Stage(False), Stage(True))
        self.head = nn.Linear(4, 2)


class Tokens(nn.Module):
    """As ViT: parameters of its own before a list of blocks, a norm and a head behind."""

    def __init__(self) -> None:
        super().__init__()
        self.class_token = nn.Parameter(torch.zeros(4))
        self.patches = nn.Conv2d(3, 4, 4)
        self.blocks = nn.ModuleList(Block() for _ in range(3))
        self.norm = nn.LayerNorm(4)
        self.head = nn.Linear(4, 2)


class Beside(nn.Module):
    """Steps between stages in a list of their own, before that of the stages."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 4)
        self.steps = nn.ModuleList(nn.Sequential(nn.BatchNorm2d(4), nn.Conv2d(4, 4, 2)) for _ in range(2))
        self.stages = nn.ModuleList(nn.Sequential(*(Block() for _ in range(n))) for n in (1, 2, 1))
        self.head = nn.Linear(4, 2)


def by_module(network: nn.Module) -> dict[str, int]:
    return {name.rpartition(".")[0]: depth for name, depth in layer_depths(network).items()}


def test_tokens_stem_blocks_and_head() -> None:
    depths = by_module(Tokens())
    assert depths[""] == depths["patches"] == 0
    assert [depths[f"blocks.{n}.conv"] for n in range(3)] == [1, 2, 3]
    assert depths["norm"] == depths["head"] == 4


def test_steps_between_stages_go_with_the_blocks_behind() -> None:
    depths = by_module(Staged())
    assert depths["stem.0"] == depths["stem.1"] == 0
    assert [depths[f"stages.{s}.blocks.{b}.conv"] for s in (0, 1) for b in (0, 1)] == [1, 2, 3, 4]
    assert depths["stages.1.down"] == 3
    assert depths["head"] == 5


def test_steps_in_a_list_of_their_own_go_with_their_stages() -> None:
    depths = by_module(Beside())
    assert depths["stem"] == 0
    assert depths["stages.1.0.conv"] == depths["steps.0.1"] == depths["stages.0.0.conv"] + 1
    assert depths["stages.2.0.conv"] == depths["steps.1.0"] == depths["stages.1.1.conv"] + 1
    assert depths["head"] == max(depths.values())


def test_plain_sequences_are_blocks_where_there_is_nothing_else() -> None:
    layers = [nn.Sequential(nn.Conv2d(4, 4, 3), nn.ReLU()) for _ in range(3)]
    network = nn.ModuleDict({"features": nn.Sequential(*layers), "head": nn.Linear(4, 2)})
    assert list(layer_depths(network).values())[::2] == [1, 2, 3, 4]


@pytest.mark.parametrize(
    ("name", "shape", "blocks"),
    [
        ("resnet50", (1, 3, 64, 64), 16),
        ("resnet20_cifar", (1, 3, 32, 32), 9),
        ("convnext_tiny", (1, 3, 64, 64), 18),
        ("internimage_tiny", (1, 3, 64, 64), 30),
        ("internimage_small", (1, 3, 64, 64), 33),
        ("vit_tiny_patch16_224", (1, 3, 224, 224), 12),
        ("vit_small_patch16_rope_224", (1, 3, 224, 224), 12),
        ("roformer_base", (1, 7), 12),
    ],
)
def test_depths_of_published_networks_rise_in_the_order_in_which_their_layers_run(
    name: str, shape: tuple[int, ...], blocks: int
) -> None:
    file, depths_run = module_of(entry(name).file), []
    with torch.device("meta"):
        network = file.build(file.VARIANTS[name]).eval()
        depths = layer_depths(network)
        for path, layer in network.named_modules():
            own = [depths[f"{path}.{leaf}"] for leaf, _ in layer.named_parameters(recurse=False) if path]
            layer.register_forward_hook(lambda *_, own=own: depths_run.extend(own))
        network(torch.zeros(shape, dtype=torch.long if len(shape) == 2 else None))
    assert depths_run == sorted(depths_run)
    assert set(depths_run) == set(depths.values()) == set(range(blocks + 2))  # the stem's, the blocks', the head's


def test_an_objective_around_a_network_changes_nothing() -> None:
    inner = layer_depths(Staged())
    assert layer_depths(nn.ModuleDict({"network": Staged()})) == {f"network.{k}": v for k, v in inner.items()}


def test_rates_fall_from_head_to_input_and_hold_every_parameter_once() -> None:
    network = Tokens()
    config = TrainConfig(learning_rate=1.0, layer_decay=0.5, weight_decay=0.1)
    (optimizer,) = build_optimizers(network, config).values()
    rate = {id(p): group["highest_lr"] for group in optimizer.param_groups for p in group["params"]}
    decay = {id(p): group["weight_decay"] for group in optimizer.param_groups for p in group["params"]}
    named = dict(network.named_parameters())
    assert len(rate) == len(named) == sum(len(group["params"]) for group in optimizer.param_groups)
    assert {name: rate[id(p)] for name, p in named.items()} == {
        name: 0.5 ** (4 - depth) for name, depth in layer_depths(network).items()
    }
    assert optimizer.param_groups[0]["highest_lr"] == 1.0  # what the log shows
    assert {decay[id(p)] for p in named.values() if p.ndim > 1} == {0.1}
    assert {decay[id(p)] for p in named.values() if p.ndim <= 1} == {0.0}


def test_without_decay_all_is_as_it_was() -> None:
    (optimizer,) = build_optimizers(Tokens(), TrainConfig()).values()
    assert len(optimizer.param_groups) == 2

"""The tables of the backbones: layers and networks against the forms that others publish.

    python benchmarks/backbones.py eager       [--threads 2 --batch 4 --repeats 7 --networks resnet50 ...]
    python benchmarks/backbones.py prepared    [--threads 2 --batch 8 --repeats 7 --networks resnet50 ...]
    python benchmarks/backbones.py memory      [--threads 2 --batch 4 --networks resnet50 ...]
    python benchmarks/backbones.py agreement   --model MODEL --data DIR [--every 10]
    python benchmarks/backbones.py internimage [--threads 2 --batch 4 --repeats 7]
    python benchmarks/backbones.py dcnv3       [--threads 2 --batch 4 --repeats 15 --side 56 --width 64 --groups 4]

All of a table is measured in one run, in turns, and the ratio of two rows is the median of the ratios of their turns.
The peers are the networks of timm, torchvision and transformers as these build them; the first rounds find the fastest,
and the others leave. Every library runs in processes of its own, one with glibc's allocator as it is and one with the
setting that Abbe makes for itself. With ``--device cuda`` both sides are compiled and compute in bfloat16.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial
from itertools import product
from typing import Any

import torch
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

import abbe
from abbe.data.classes import find_classes
from abbe.methods.backbones.dcnv3 import DCNv3, Window, dcnv3
from abbe.nn.memory import tune_allocator
from contender import Contender, Times, in_turns, ratio, start
from contender_worker import WAYS, build_abbe, side
from tables import machine, print_table

Inputs = list[torch.Tensor]
PEERS = {"unet_residual": ("monai",)}
"""Who has a network; classes are told by all of ``CLASSIFIERS``."""
CLASSIFIERS = ("timm", "torchvision", "transformers")
NETWORKS = ("resnet50", "convnext_tiny", "vit_base_patch16_224", "unet_residual")
PASSES = {"forward": "forward", "backward": "forward and backward"}
ALLOCATORS = {False: "default", True: "tuned"}
RATIO = "ratio (quartiles)"


def main() -> None:
    arguments = parse()
    print(machine())
    arguments.verb(arguments)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    verbs = parser.add_subparsers(required=True)
    defaults = {eager: (4, 7), prepared: (8, 7), memory: (4, 2), internimage: (4, 7), compare_dcnv3: (4, 15)}
    for verb, (batch, repeats) in defaults.items():
        name = verb.__name__.removeprefix("compare_")
        sub = verbs.add_parser(name, help=verb.__doc__)
        sub.set_defaults(verb=verb)
        sub.add_argument("--threads", type=int, default=2)
        sub.add_argument("--batch", type=int, default=batch)
        sub.add_argument("--repeats", type=int, default=repeats)
        sub.add_argument("--device", default="cpu")
        if verb in (eager, prepared, memory):
            sub.add_argument("--networks", nargs="+", choices=NETWORKS, default=NETWORKS)
        if verb in (internimage, compare_dcnv3):
            sub.add_argument("--tuned", action="store_true", help="with Abbe's allocator setting, for both")
    sub = verbs.add_parser("agreement", help=agreement.__doc__)
    sub.set_defaults(verb=agreement)
    sub.add_argument("--model", required=True)
    sub.add_argument("--data", required=True)
    sub.add_argument("--every", type=int, default=1, help="take every n-th image")
    sub.add_argument("--device", default="cpu")
    for name, default in (("side", 56), ("width", 64), ("groups", 4)):
        verbs.choices["dcnv3"].add_argument(f"--{name}", type=int, default=default)
    return parser.parse_args()


# ------------------------------------------------------------------------------------------------------- eager


def eager(arguments: argparse.Namespace) -> None:
    """Time the networks as they are built, forward and with their gradients, against the fastest peer's."""
    rows = []
    with ExitStack() as stack:
        crews = {tuned: crew(stack, arguments, tuned=tuned) for tuned in allocators(arguments)}
        for network in arguments.networks:
            if not crews[False].keys() & set(PEERS.get(network, CLASSIFIERS)):
                print(f"{network} left out: no peer", file=sys.stderr)
                continue
            rows += eager_rows(network, crews, arguments)
    form = "bfloat16, compiled" if arguments.device == "cuda" else f"eager float32, {arguments.threads} threads"
    title = f"Images a second, {form}, batches of {arguments.batch}, {arguments.repeats} rounds"
    print_table(title, ["", "pass", "allocator", "fastest peer", "peer", "Abbe", RATIO], rows)


def eager_rows(
    network: str, crews: dict[bool, dict[str, Contender]], arguments: argparse.Namespace
) -> Iterator[list[str]]:
    """Time one network: first the peers among themselves, then the fastest ones against Abbe."""
    pairs = {}
    for tuned, contenders in crews.items():
        fast = {each: fastest(network, each, contenders, arguments) for each in PASSES}
        for library, contender in contenders.items():
            if library not in fast.values():
                contender.do("forget")
        build(contenders["abbe"], network, arguments)
        pairs |= {(each, tuned): (contenders[fast[each]], contenders["abbe"]) for each in PASSES}
    ways = [partial(side_.do, each) for (each, _), pair in pairs.items() for side_ in pair]
    times = iter(in_turns(ways, arguments.repeats))
    for (each, tuned), (peer, _) in pairs.items():
        theirs, ours = next(times), next(times)
        speeds = (images_a_second(some, arguments) for some in (theirs, ours))
        yield [network, PASSES[each], ALLOCATORS[tuned], peer.library, *speeds, ratio(theirs, ours)]


def crew(stack: ExitStack, arguments: argparse.Namespace, *, tuned: bool) -> dict[str, Contender]:
    """Start a worker of Abbe, and one for each library that has one of the networks."""
    if arguments.device == "cuda":
        libraries = {"timm"}
    else:
        libraries = {library for network in arguments.networks for library in PEERS.get(network, CLASSIFIERS)}
    started = start(stack, ["abbe", *sorted(libraries)], arguments.threads, arguments.device, tuned=tuned)
    return {contender.library: contender for contender in started}


def allocators(arguments: argparse.Namespace) -> tuple[bool, ...]:
    return (False,) if arguments.device == "cuda" else (False, True)


def fastest(network: str, each: str, contenders: dict[str, Contender], arguments: argparse.Namespace) -> str:
    """Find the library whose network is the fastest, by the best of two rounds; all of them keep theirs."""
    peers = [contenders[library] for library in PEERS.get(network, CLASSIFIERS) if library in contenders]
    if len(peers) == 1:
        build(peers[0], network, arguments)
        return peers[0].library
    for peer in peers:
        build(peer, network, arguments)
    best = dict(zip((peer.library for peer in peers), map(min, in_turns([partial(p.do, each) for p in peers], 2))))
    told = ", ".join(f"{library} {1000 * seconds:.0f} ms" for library, seconds in best.items())
    print(f"{network}, {PASSES[each]}: {told}", file=sys.stderr, flush=True)
    return min(best, key=best.__getitem__)


def build(contender: Contender, network: str, arguments: argparse.Namespace) -> None:
    contender.do("build", network=network, batch=arguments.batch, compiled=arguments.device == "cuda")


def images_a_second(times: Times, arguments: argparse.Namespace) -> str:
    return f"{arguments.batch / statistics.median(times):.2f}"


# ---------------------------------------------------------------------------------------------------- prepared


def prepared(arguments: argparse.Namespace) -> None:
    """Time the ways through the networks that the verbs take, against the fastest eager peer."""
    rows = []
    with ExitStack() as stack:
        plain, tuned = (crew(stack, arguments, tuned=tuned) for tuned in (False, True))
        for network in arguments.networks:
            rows += prepared_rows(network, plain, tuned, arguments)
    title = f"Prepared inference, {arguments.threads} threads, batches of {arguments.batch}, {arguments.repeats} rounds"
    header = ["", "way", "images/s", "against eager, default allocator", "tuned allocator", "relative error"]
    print_table(title, header, rows)


def prepared_rows(
    network: str, plain: dict[str, Contender], tuned: dict[str, Contender], arguments: argparse.Namespace
) -> Iterator[list[str]]:
    """Time one network; where only Abbe has it, against its own eager form."""
    abbe = tuned["abbe"]  # preparing makes the setting anyway
    library = "abbe" if network in PEERS else fastest(network, "forward", plain, arguments)
    for others in (plain, tuned):
        for contender in others.values():
            if contender.library != library:
                contender.do("forget")
        build(others[library], network, arguments)
    build(abbe, network, arguments)
    for way in WAYS:
        abbe.do("prepare", way=way)
    peers = [partial(others[library].do, "forward") for others in (plain, tuned)]
    ours = [partial(abbe.do, "predict", way=way) for way in WAYS]
    default, with_setting, *found = in_turns([*peers, *ours], arguments.repeats, warm=2)
    for name, times in ((f"{library}, default", default), (f"{library}, tuned", with_setting)):
        yield [network, name, images_a_second(times, arguments), ratio(default, times), ratio(with_setting, times), ""]
    for way, times in zip(WAYS, found, strict=True):
        speeds = images_a_second(times, arguments), ratio(default, times), ratio(with_setting, times)
        yield [network, way, *speeds, f"{abbe.do('error', way=way):.1e}"]


def agreement(arguments: argparse.Namespace) -> None:
    """Compare the classes that each prepared way tells with the plain forward's, on images in folders of classes."""
    model = abbe.load(arguments.model)
    images = [labelled.image for labelled in find_classes(arguments.data)][:: arguments.every]
    told = {}
    for name, options in {"plain float32": {"precision": "exact"}, **WAYS}.items():
        settings = {"device": arguments.device, **options}
        told[name] = [abbe.classify(image, model, **settings)["class"].iloc[0] for image in images]
    plain = told.pop("plain float32")
    rows = [[way, f"{100 * sum(map(str.__eq__, plain, found)) / len(plain):.2f} %"] for way, found in told.items()]
    print_table(f"{model.name}: same class as the plain forward, {len(images)} images", ["", "same class"], rows)


# ------------------------------------------------------------------------------------------------------ memory


def memory(arguments: argparse.Namespace) -> None:
    """Measure the peak memory of each network in a process of its own, beyond what the imports take."""
    for title, kinds in (("eager float32", eager_kinds(arguments)), ("prepared", prepared_kinds(arguments))):
        rows = []
        for network, kind, commands, libraries in kinds:
            cells = {library: peak(library, network, commands, arguments) for library in libraries}
            rows.append([network, kind, *(cells.get(library, "") for library in ("abbe", *CLASSIFIERS))])
            print(rows[-1], file=sys.stderr, flush=True)
        print_table(f"Peak MiB, {title}, batches of {arguments.batch}", ["", "", "Abbe", *CLASSIFIERS], rows)


Kind = tuple[str, str, list[dict[str, Any]], tuple[str, ...]]


def eager_kinds(arguments: argparse.Namespace) -> Iterator[Kind]:
    """List what is measured of the networks as they are built."""
    for network, each in product(arguments.networks, PASSES):
        peers = () if network in PEERS else CLASSIFIERS
        yield network, PASSES[each], [{"name": each}] * arguments.repeats, ("abbe", *peers)


def prepared_kinds(arguments: argparse.Namespace) -> Iterator[Kind]:
    """List what is measured of the prepared ways."""
    for network, way in product(arguments.networks, WAYS):
        steps = [{"name": "predict", "way": way}] * arguments.repeats
        yield network, way, [{"name": "prepare", "way": way}, *steps], ("abbe",)


def peak(library: str, network: str, commands: list[dict[str, Any]], arguments: argparse.Namespace) -> str:
    """Run commands in a fresh process and give the peak of its memory in MiB, with each allocator."""
    cells = []
    for tuned in allocators(arguments):
        with ExitStack() as stack:
            (contender,) = start(stack, [library], arguments.threads, arguments.device, tuned=tuned)
            contender.do("start")
            build(contender, network, arguments)
            for command in commands:
                contender.do(**command)
            cells.append(f"{contender.do('peak') / 2**20:.0f}")
    return " / ".join(cells)


# ------------------------------------------------------------------------------------------------- InternImage


def internimage(arguments: argparse.Namespace) -> None:
    """Time InternImage-T and ConvNeXt-T for each operation that they compute."""
    torch.set_num_threads(arguments.threads)
    if arguments.tuned:
        tune_allocator()
    names = ("internimage_tiny", "convnext_tiny")
    networks = [build_abbe(name).to(arguments.device) for name in names]
    x = torch.randn(arguments.batch, 3, side(names[0]), side(names[0]), device=arguments.device)
    counts = [multiply_adds(network, x[:1]) for network in networks]
    ways = [partial(seconds_of, way, network, x) for way in (infer, learn) for network in networks]
    times = in_turns(ways, arguments.repeats)
    rows = []
    for i, each in enumerate(PASSES.values()):
        here = times[2 * i : 2 * i + 2]
        per_operation = [[t / count for t in some] for some, count in zip(here, counts, strict=True)]
        cells = (f"{1000 * statistics.median(some):.0f}" for some in here)
        rows.append([each, *cells, ratio(*here), ratio(*per_operation)])
    told = ", ".join(f"{name} {count / 1e9:.2f} G" for name, count in zip(names, counts, strict=True))
    title = f"Multiply-adds per image: {told}; float32, {arguments.device}, batches of {arguments.batch}"
    allocator = ALLOCATORS[arguments.tuned]
    header = ["", "InternImage-T (ms)", "ConvNeXt-T (ms)", "times as long", "times as long per multiply-add"]
    print_table(f"{title}, {arguments.threads} threads, {allocator} allocator", header, rows)


def multiply_adds(network: torch.nn.Module, x: torch.Tensor) -> int:
    """Count those of convolutions and matrix products, and of DCNv3 four for each point of each value."""
    sampled = []

    def count(module: torch.nn.Module, _: Any, out: torch.Tensor) -> None:
        assert isinstance(module, DCNv3)
        sampled.append(4 * module.window.points * out.numel())

    for module in network.modules():
        if isinstance(module, DCNv3):
            module.register_forward_hook(count)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network.eval()(x)
    return counter.get_total_flops() // 2 + sum(sampled)


def infer(network: torch.nn.Module, x: torch.Tensor) -> None:
    with torch.inference_mode():
        network.eval()(x)


def learn(network: torch.nn.Module, x: torch.Tensor) -> None:
    network.train().zero_grad(set_to_none=True)
    network(x).square().mean().backward()


def seconds_of(function: Callable[..., Any], *arguments: Any) -> float:
    begin = time.perf_counter()
    function(*arguments)
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - begin


# ------------------------------------------------------------------------------------------------------- DCNv3


def compare_dcnv3(arguments: argparse.Namespace) -> None:
    """Time DCNv3's core against the official one in plain PyTorch, forward and with its gradients."""
    torch.set_num_threads(arguments.threads)
    if arguments.tuned:
        tune_allocator()
    window = Window(arguments.groups)
    inputs = draw(arguments, window)
    check(inputs, window)
    rows = []
    for title, way in (("forward", forward), ("forward and backward", backward)):
        ways = [partial(seconds_of, way, core, inputs, window) for core in (official, dcnv3)]
        theirs, ours = in_turns(ways, arguments.repeats, warm=2)
        times = (f"{1000 * statistics.median(some):.1f}" for some in (theirs, ours))
        rows.append([title, *times, ratio(theirs, ours)])
    allocator = "Abbe's allocator setting" if arguments.tuned else "default allocator"
    shape = f"{arguments.batch} x {arguments.side} x {arguments.side} x {arguments.width}, {arguments.groups} groups"
    title = f"DCNv3 core, {shape}, float32, {arguments.device}, {arguments.threads} threads, {allocator}"
    print_table(title, ["", "official form (ms)", "Abbe (ms)", RATIO], rows)


def draw(arguments: argparse.Namespace, window: Window) -> Inputs:
    """Values, offsets of about a pixel, and weights that sum to one."""
    generator = torch.Generator().manual_seed(0)
    size = (arguments.batch, arguments.side, arguments.side)
    x = torch.randn(*size, arguments.width, generator=generator)
    offset = torch.randn(*size, window.groups * window.points * 2, generator=generator)
    mask = torch.randn(*size, window.groups, window.points, generator=generator).softmax(-1).flatten(-2)
    return [tensor.to(arguments.device).requires_grad_() for tensor in (x, offset, mask)]


def check(inputs: Inputs, window: Window) -> None:
    """See that both compute the same."""
    with torch.inference_mode():
        torch.testing.assert_close(dcnv3(*inputs, window), official(*inputs, window), rtol=1e-4, atol=1e-4)


def official(x: torch.Tensor, offset: torch.Tensor, mask: torch.Tensor, window: Window) -> torch.Tensor:
    """Compute Eq. 2 as the official core in plain PyTorch does, for its 3 x 3 window at stride 1.

    Padded values, places as fractions of their extents, one ``grid_sample`` over all groups, then weights and sum.
    """
    groups, points = window.groups, window.points
    batch, rows, columns, channels = x.shape
    padded = F.pad(x, (0, 0, 1, 1, 1, 1))
    size = torch.tensor([columns + 2, rows + 2], device=x.device)
    y, x_ = torch.meshgrid(*(torch.arange(n, device=x.device) + 1.5 for n in (rows, columns)), indexing="ij")
    steps = torch.arange(-1.0, 2.0, device=x.device)
    window_points = torch.stack(torch.meshgrid(steps, steps, indexing="ij"), -1).view(-1, 2).repeat(groups, 1)
    fixed = (torch.stack([x_, y], -1).unsqueeze(2) + window_points) / size  # (Y, X, G P, 2)
    places = fixed.repeat(batch, 1, 1, 1, 1).flatten(3) + offset / size.repeat(groups * points)
    grid = (2 * places - 1).view(batch, rows * columns, groups, points, 2).transpose(1, 2).flatten(0, 1)
    image = padded.flatten(1, 2).transpose(1, 2).reshape(batch * groups, channels // groups, rows + 2, columns + 2)
    samples = F.grid_sample(image, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
    weights = mask.view(batch, rows * columns, groups, points).transpose(1, 2)
    out = (samples * weights.reshape(batch * groups, 1, rows * columns, points)).sum(-1)
    return out.view(batch, channels, -1).transpose(1, 2).reshape(batch, rows, columns, channels).contiguous()


def forward(core: Callable[..., torch.Tensor], inputs: Inputs, window: Window) -> None:
    """Run one way without gradients."""
    with torch.inference_mode():
        core(*inputs, window)


def backward(core: Callable[..., torch.Tensor], inputs: Inputs, window: Window) -> None:
    """Run both ways."""
    out = core(*inputs, window)
    torch.autograd.grad(out, inputs, torch.ones_like(out))


if __name__ == "__main__":
    main()

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
            sub.add_argument("--peers", nargs="+", choices=CLASSIFIERS, default=CLASSIFIERS)
            names = tuple(ALLOCATORS.values())
            sub.add_argument("--allocators", nargs="+", choices=names, default=names)
            sub.add_argument("--ways", nargs="+", choices=tuple(WAYS), default=tuple(WAYS))
            sub.add_argument(
                "--clock", choices=("wall", "processor"), default="wall", help="processor: on a busy machine"
            )
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
    for tuned in allocators(arguments):
        with ExitStack() as stack:
            contenders = crew(stack, arguments, tuned=tuned)
            for network in arguments.networks:
                if not contenders.keys() & set(peers_of(network, arguments)):
                    print(f"{network} left out: no peer", file=sys.stderr)
                    continue
                rows += eager_rows(network, contenders, arguments)
    form = "bfloat16, compiled" if arguments.device == "cuda" else f"eager float32, {arguments.threads} threads"
    title = f"Images a second, {form}, batches of {arguments.batch}, {conditions(arguments)}"
    header = ["", "pass", "allocator", "fastest peer", "peer", "Abbe", RATIO]
    print_table(title, header, sorted(rows, key=lambda row: arguments.networks.index(row[0])))


def eager_rows(network: str, contenders: dict[str, Contender], arguments: argparse.Namespace) -> Iterator[list[str]]:
    """Time one network: first the peers among themselves, then the fastest ones against Abbe."""
    fast = {each: fastest(network, each, contenders, arguments) for each in PASSES}
    pairs = {each: (contenders[library], contenders["abbe"]) for each, library in fast.items()}
    for library in {"abbe", *fast.values()}:
        build(contenders[library], network, arguments)
    times = iter(in_turns([partial(one.do, each) for each, pair in pairs.items() for one in pair], arguments.repeats))
    for each, (peer, abbe_) in pairs.items():
        theirs, ours = next(times), next(times)
        speeds = (images_a_second(some, arguments) for some in (theirs, ours))
        yield [network, PASSES[each], ALLOCATORS[abbe_.tuned], peer.name, *speeds, ratio(theirs, ours)]
    for contender in contenders.values():
        contender.do("forget")


def crew(stack: ExitStack, arguments: argparse.Namespace, *, tuned: bool) -> dict[str, Contender]:
    """Start a worker of Abbe, and one for each library that has one of the networks."""
    if arguments.device == "cuda":
        libraries = {"timm"}
    else:
        libraries = {library for network in arguments.networks for library in peers_of(network, arguments)}
    started = start(stack, ["abbe", *sorted(libraries)], arguments, tuned=tuned)
    return {contender.name: contender for contender in started}


def allocators(arguments: argparse.Namespace) -> tuple[bool, ...]:
    if arguments.device == "cuda":
        return (False,)
    return tuple(tuned for tuned, name in ALLOCATORS.items() if name in arguments.allocators)


def peers_of(network: str, arguments: argparse.Namespace) -> tuple[str, ...]:
    """List the libraries that have a network."""
    return PEERS.get(network, tuple(arguments.peers))


def fastest(network: str, each: str, contenders: dict[str, Contender], arguments: argparse.Namespace) -> str:
    """Find the library whose network is the fastest, by the best of two runs; one after the other, to spare memory."""
    best = {}
    for peer in (contenders[library] for library in peers_of(network, arguments) if library in contenders):
        build(peer, network, arguments)
        best[peer.name] = min(*in_turns([partial(peer.do, each)], 2))
        peer.do("forget")
    told = ", ".join(f"{library} {1000 * seconds:.0f} ms" for library, seconds in best.items())
    print(f"{network}, {PASSES[each]}: {told}", file=sys.stderr, flush=True)
    return min(best, key=best.__getitem__)


def build(contender: Contender, network: str, arguments: argparse.Namespace) -> None:
    contender.do("build", network=network, batch=arguments.batch, compiled=arguments.device == "cuda")


def conditions(arguments: argparse.Namespace) -> str:
    return f"{arguments.repeats} rounds, {arguments.clock} time"


def images_a_second(times: Times, arguments: argparse.Namespace) -> str:
    return f"{arguments.batch / statistics.median(times):.2f}"


# ---------------------------------------------------------------------------------------------------- prepared


def prepared(arguments: argparse.Namespace) -> None:
    """Time the ways through the networks that the verbs take, against the fastest eager peer."""
    rows = []
    for network in arguments.networks:
        with ExitStack() as stack:
            rows += prepared_rows(network, stack, arguments)
    title = f"Prepared inference, {arguments.threads} threads, batches of {arguments.batch}, {conditions(arguments)}"
    header = ["", "way", "images/s", "against eager, default allocator", "tuned allocator", "relative error"]
    print_table(title, header, rows)


def prepared_rows(network: str, stack: ExitStack, arguments: argparse.Namespace) -> Iterator[list[str]]:
    """Time one network; where only Abbe has it, against its own eager form."""
    library = "abbe" if network in PEERS else quick_peer(network, arguments)
    pair = [start(stack, [library], arguments, tuned=tuned)[0] for tuned in (False, True)]
    (abbe_,) = start(stack, ["abbe"], arguments, tuned=True)  # preparing makes the setting
    for contender in (*pair, abbe_):
        build(contender, network, arguments)
    for way in arguments.ways:
        abbe_.do("prepare", way=way)
    peers = [partial(peer.do, "forward") for peer in pair]
    default, tuned, *found = in_turns(
        [*peers, *(partial(abbe_.do, "predict", way=way) for way in arguments.ways)], arguments.repeats, 2
    )
    for name, times in (("default", default), ("tuned", tuned)):
        cells = images_a_second(times, arguments), ratio(default, times), ratio(tuned, times)
        yield [network, f"{library} eager, {name} allocator", *cells, ""]
    for way, times in zip(arguments.ways, found, strict=True):
        cells = images_a_second(times, arguments), ratio(default, times), ratio(tuned, times)
        yield [network, way, *cells, f"{abbe_.do('error', way=way):.1e}"]


def quick_peer(network: str, arguments: argparse.Namespace) -> str:
    """Find the library whose forward is the fastest; their workers leave before others come."""
    if len(arguments.peers) == 1:
        return str(arguments.peers[0])
    with ExitStack() as stack:
        started = start(stack, arguments.peers, arguments, tuned=False)
        return fastest(network, "forward", {one.name: one for one in started}, arguments)


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
    rows = []
    for network, tuned in product(arguments.networks, allocators(arguments)):
        for library in (
            "abbe",
            *(library for library in peers_of(network, arguments)),
        ):
            found = peaks(library, network, tuple(PASSES), arguments, tuned=tuned)
            rows.append([network, f"{library} eager, {ALLOCATORS[tuned]} allocator", *found])
    for network, way in product(arguments.networks, arguments.ways):
        rows.append([network, way, *peaks("abbe", network, (way,), arguments, tuned=True), ""])
    header = ["", "way", *PASSES.values()]
    print_table(f"Peak memory in MiB, batches of {arguments.batch}", header, sorted(rows, key=lambda row: row[0]))


def peaks(
    library: str, network: str, steps: tuple[str, ...], arguments: argparse.Namespace, *, tuned: bool
) -> list[str]:
    """Do steps in a fresh process, passes or a prepared way; give the peak of its memory after each, in MiB."""
    found = []
    with ExitStack() as stack:
        (contender,) = start(stack, [library], arguments, tuned=tuned)
        contender.do("start")
        build(contender, network, arguments)
        for step in steps:
            if step in WAYS:
                contender.do("prepare", way=step)
            for _ in range(arguments.repeats):
                contender.do("predict", way=step) if step in WAYS else contender.do(step)
            found.append(f"{contender.do('peak') / 2**20:.0f}")
    print(library, network, *found, file=sys.stderr, flush=True)
    return found


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

"""The tables of restoration: denoising, deblurring, Noise2Void against CAREamics, and seams between tiles.

    python benchmarks/restoration.py bsd68  --data bsd_denoise --model runs/dncnn_s [--sigma 25] [--flips]
    python benchmarks/restoration.py noisy  --data bsd_denoise --out noisy_train400
    python benchmarks/restoration.py kair   --data bsd_denoise --weights dncnn_25.pth
    python benchmarks/restoration.py w2s    --data w2s_denoise --peers-python careamics/bin/python
    python benchmarks/restoration.py stack  --peers-python careamics/bin/python
    python benchmarks/restoration.py pairs  --data gopro_deblur --out blurred
    python benchmarks/restoration.py deblur --data gopro_deblur --model runs/nafnet
    python benchmarks/restoration.py seams  [--model runs/nafnet]

CAREamics lives in an environment of its own (``pip install careamics``); without one only Abbe is timed. What is not
there is left out, and said. Every verb has options that make it small enough to try.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import torch

from abbe.errors import AbbeError
from deblur_photographs import deblur, pairs
from denoise_against_peers import stack, w2s
from denoise_photographs import bsd68, kair, noisy
from seams import seams
from tables import machine

HELD = ("GOPR0374*", "GOPR0384*")
"""Videos that are for the test alone."""
VERBS = (bsd68, noisy, kair, w2s, stack, pairs, deblur, seams)


def main() -> None:
    arguments = parse()
    torch.set_num_threads(arguments.threads)
    print(machine())
    try:
        arguments.verb(arguments)
    except AbbeError as error:
        sys.exit(f"left out: {error}")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=2)
    subs = parser.add_subparsers(required=True)
    verbs = {function.__name__: subs.add_parser(function.__name__, help=function.__doc__) for function in VERBS}
    for function in VERBS:
        verbs[function.__name__].set_defaults(verb=function)
    for name in ("bsd68", "noisy", "kair", "w2s", "pairs", "deblur"):
        verbs[name].add_argument("--data", type=Path, required=True)
    for name in ("bsd68", "kair", "w2s", "deblur"):
        verbs[name].add_argument("--images", type=int, help="so many instead of all")
    photographs(verbs["bsd68"], verbs["noisy"], verbs["kair"])
    against_peers(verbs["w2s"], verbs["stack"])
    blurred(verbs["pairs"], verbs["deblur"])
    tiles(verbs["seams"])
    return parser.parse_args()


def photographs(
    bsd: argparse.ArgumentParser, noisy_: argparse.ArgumentParser, published: argparse.ArgumentParser
) -> None:
    for verb in (bsd, noisy_, published):
        verb.add_argument("--sigma", type=float, default=25, help="in 1/255")
    noisy_.add_argument("--out", type=Path, required=True)
    for verb in (bsd, published):
        verb.add_argument("--precision", default="float32", choices=("float32", "bfloat16", "exact"))
    bsd.add_argument("--model", nargs="*", default=[], help="model files or folders of trainings")
    bsd.add_argument("--flips", action="store_true", help="also the mean over eight flips and turns")
    bsd.add_argument("--no-classical", action="store_true", help="without non-local means and total variation")
    published.add_argument("--weights", type=Path, default=Path("dncnn_25.pth"))
    published.add_argument("--network", default="dncnn_s")


def against_peers(w2s_: argparse.ArgumentParser, stack_: argparse.ArgumentParser) -> None:
    for verb in (w2s_, stack_):
        verb.add_argument("--peers-python", type=Path, help="interpreter that has CAREamics")
        verb.add_argument("--clock", choices=("wall", "processor"), default="wall", help="processor: on a busy machine")
        verb.add_argument("--repeats", type=int, default=5 if verb is w2s_ else 3)
    w2s_.add_argument("--allocators", nargs="+", choices=("default", "tuned"), default=["tuned"], help="of CAREamics")
    stack_.add_argument("--allocators", nargs="+", choices=("default", "tuned"), default=["default", "tuned"])
    for name, value in {"seeds": 3, "epochs": 20, "steps": 50, "batch": 16, "patch": 64}.items():
        w2s_.add_argument(f"--{name}", type=int, default=value, help="of each epoch" if name == "steps" else None)
    w2s_.add_argument("--share", type=float, help="part of the pixels that Abbe hides; the method's own unless given")
    w2s_.add_argument("--radius", type=int, help="where Abbe takes other values from; the method's own unless given")
    stack_.add_argument("--side", type=int, default=2048, help="pixels")
    stack_.add_argument("--frames", type=int, default=50)
    stack_.add_argument("--tiles", type=int, nargs="+", default=[256, 512, 1024], help="that CAREamics may choose from")
    stack_.add_argument("--no-memory", action="store_true", help="without the round in which memory is watched")
    stack_.add_argument("--work", type=Path, help="folder for the stack, 420 MB")


def blurred(pairs_: argparse.ArgumentParser, deblur_: argparse.ArgumentParser) -> None:
    for verb in (pairs_, deblur_):
        verb.add_argument("--held", nargs="+", default=list(HELD), help="names of pairs for the test alone")
    pairs_.add_argument("--out", type=Path, required=True)
    pairs_.add_argument("--simulated", type=int, default=4, help="strokes for each sharp image")
    deblur_.add_argument("--model", nargs="*", default=[], help="model files or folders of trainings")
    deblur_.add_argument("--kernels", default="Levin09.mat", help="file in kernels/ of the data")
    deblur_.add_argument("--kernel-count", type=int, help="so many instead of all")


def tiles(verb: argparse.ArgumentParser) -> None:
    verb.add_argument("--model", help="of NAFNet; random weights unless given")
    verb.add_argument("--network", default="nafnet_width32", help="for random weights")
    verb.add_argument("--crop", type=int, default=128, help="side of its training's crops, where it does not know")
    verb.add_argument("--side", type=int, default=768, help="of the image")
    verb.add_argument("--core", type=int, default=256, help="of the tiles, without halo")


if __name__ == "__main__":
    main()

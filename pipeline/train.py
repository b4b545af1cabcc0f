"""Trains one run, one codec or one extractor of params.yaml; takes over the weights of an extractor that is pretrained.

A killed training continues from its last checkpoint when the same command is given again, and ends bit-equal to one that
was never killed. Ctrl-C (SIGINT) and SIGTERM save a checkpoint after the step that runs, and end with status 130 and 143; a
second Ctrl-C does not wait.
"""

from __future__ import annotations

import sys

from pipeline.config import schema
from pipeline.config.load import load_params, read_block
from pipeline.core import command
from pipeline.core.layout import Layout
from pipeline.store.fresh import check_model


def main(argv: list[str] | None = None) -> int:
    parser = command.parser(__doc__)
    parser.add_argument("run", help="a name under runs: (with --extractor or --codec: under extractors: or codecs:)")
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--extractor", action="store_true", help="train an extractor instead of a run")
    what.add_argument("--codec", action="store_true", help="train a codec instead of a run")
    parser.add_argument("--seed", type=int, help="train with this seed instead of the block's; goes with --out")
    parser.add_argument(
        "--out", type=command.path, help="write to this folder, curve.csv included, instead of the pipeline's own"
    )
    args = parser.parse_args(argv)

    def work() -> None:
        from pipeline.training.job import run
        from pipeline.training.result import Paths

        params = load_params(args.params)
        role = "extractors" if args.extractor else "codecs" if args.codec else "runs"
        cfg: schema.Entry = command.choose(getattr(params, role), args.run, role)
        key = f"{role}.{args.run}"
        place = Layout()
        out = place.model(role, args.run)
        if args.seed is not None:
            if args.out is None:
                raise ValueError(f"--seed is {args.seed} without --out; name a folder, as {out} is for the seed of {key}")
            cfg = read_block(type(cfg), {**cfg.model_dump(), "seed": args.seed}, key)
        extractor = place.extractor(cfg.extractor) if isinstance(cfg, schema.Codec) else None
        paths = Paths(place.data(cfg.data), out, place.curve(args.run), extractor)
        if args.out is not None:
            paths = Paths(paths.data, args.out, args.out / "curve.csv", extractor)
        if isinstance(cfg, schema.Codec):
            check_model(params, "extractors", cfg.extractor, place.root)
        command.writable(paths.out, paths.curve.parent)
        run(cfg, paths, key)

    return command.run_command(work)


if __name__ == "__main__":
    sys.exit(main())

"""Write the plan's figures into the recipes' READMEs (`make recipes`); `--check` only says whether they are
in step."""
import re, sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
BLOCK = re.compile(r"<!-- plan (.*?) -->\n(.*?)<!-- end -->", re.S)

def figures(flags):
    from spot_nb.plan import parse_flags, plan
    config, hardware, sharding = parse_flags([str(ROOT/f) if f.startswith("recipes/") else f
                                              for f in flags.split()])
    p = plan(config, None, hardware, sharding)
    card = hardware.card[0]
    rows = [("memory on each GPU",
             f"{p.total:.1f} GB of {p.gpu_memory:g}: "
             + ", ".join(f"{k} {v:.1f}" for k, v in p.parts.items() if v >= 0.05)),
            ("fits", "yes" if p.fits else "no"),
            ("longest row that fits",
             f"{p.longest_row:,} distinct tokens (a pair has at most {2 * config.max_length:,})"),
            ("time and cost",
             f"about {p.hours:.1f} h on {p.gpus} x {card}, ${p.cost:.0f}, for training alone"),
            ("assumed", "; ".join(p.assumptions))]
    return "\n".join(["", "| by the plan | |", "|---|---|"] + [f"| {k} | {v} |" for k, v in rows]) + "\n\n"

def filled(text):
    return BLOCK.sub(lambda m: f"<!-- plan {m[1]} -->\n{figures(m[1])}<!-- end -->", text)

def main(check):
    stale = []
    for path in sorted(ROOT.glob("recipes/*/README.md")):
        text = path.read_text(encoding="utf-8")
        new = filled(text)
        if new == text: continue
        stale.append(str(path.relative_to(ROOT)))
        if not check: path.write_text(new, encoding="utf-8")
    if check and stale: sys.exit(f"not in step with the plan, run `make recipes`: {', '.join(stale)}")

if __name__ == "__main__": main("--check" in sys.argv)

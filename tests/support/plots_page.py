"""Makes .dvc/plots/page.html, in which DVC shows its plots: vega inside, so that the page needs no network.

    make plots-page

.dvc/config names the page. It is committed, as whoever looks at plots must not need the bundler, which is a development
dependency; a test compares the two. DVC replaces {plot_divs} and {refresh_tag}; {scripts}, which would load vega from a CDN,
is left out.
"""

from __future__ import annotations

from pathlib import Path

PAGE = Path(__file__).parents[2] / ".dvc" / "plots" / "page.html"
# The newest release of the schema that DVC's own templates name (v5).
VEGA_LITE = "5.21"

# The menu of a plot saves it and shows its source; the online editor, an address elsewhere, is not in it.
ENTRY = """
const actions = {export: true, source: true, compiled: false, editor: false};
window.vegaEmbed = (place, spec) => vegaEmbed(place, spec, {actions});
"""

TEMPLATE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
{refresh_tag}
<title>Plots</title>
<style>
  body { font-family: system-ui, sans-serif; margin: 1.5rem; background: #fff; color: #111; }
  body > div { margin-bottom: 2rem; }
  img { max-width: 100%; }
</style>
<!-- vega, vega-lite and vega-embed: LICENSES.txt beside this template in .dvc/plots -->
<script>
BUNDLE
</script>
</head>
<body>
{plot_divs}
</body>
</html>
"""


def render() -> str:
    """The page. Raises ValueError if the bundle would end its script early or be taken for one of DVC's places."""
    import vl_convert

    bundle = vl_convert.javascript_bundle(ENTRY, vl_version=VEGA_LITE)
    for mark in ("</script", "<!--", "{plot_divs}", "{refresh_tag}", "{scripts}"):
        if mark in bundle:
            raise ValueError(f"the bundle of vega-lite {VEGA_LITE} holds {mark}, which can't stand inside the page's script")
    return TEMPLATE.replace("BUNDLE", bundle)


def write(path: Path = PAGE) -> None:
    """Puts the page at `path`, whole or not at all."""
    from pipeline.core import artifacts

    artifacts.write_text(path, render())


if __name__ == "__main__":
    write()

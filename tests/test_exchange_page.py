"""docs/exchange.md: its blocks run, one recipe after the other, as far as their simulators are here."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

PAGE = Path(__file__).parents[1] / "docs" / "exchange.md"


def run(heading: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Names after all blocks below a heading."""
    text = PAGE.read_text("utf-8")
    level = heading.partition(" ")[0]
    part = text.split(f"\n{heading}\n")[1]
    part = re.split(rf"^{level} ", part, maxsplit=1, flags=re.MULTILINE)[0]
    if level == "###":
        part = re.split(r"^## ", part, maxsplit=1, flags=re.MULTILINE)[0]
    names: dict[str, Any] = {}
    monkeypatch.chdir(folder)
    for block in re.findall(r"^```python\n(.*?)^```", part, flags=re.MULTILINE | re.DOTALL):
        exec(compile(block, "docs/exchange.md", "exec"), names)
    return names


def test_a_network_goes_and_comes_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("nir", reason="needs the nir package")
    names = run("## NIR", tmp_path, monkeypatch)
    net, times = names["net"], names["times"]
    assert "silence each neuron" in names["notes"][0]
    assert np.allclose(times, net(names["t_in"]), rtol=1e-12)
    assert names["back"].epoch == 2
    assert names["cost"].energy_per_classification_J > 0


@pytest.mark.filterwarnings("ignore")  # of other people's packages
@pytest.mark.parametrize(
    ("heading", "package", "scope"),
    [
        ("### snnTorch", "snntorch", "per_term"),
        ("### SpikingJelly", "spikingjelly", "per_term"),
        ("### A NIR file", "nir", "all_in"),
    ],
)
def test_a_recipe_prices_a_network_of_another_tool(
    heading: str, package: str, scope: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip(package, reason=f"needs the {package} package")
    names = run(heading, tmp_path, monkeypatch)
    cost, spikes = names["cost"], names["spikes"]
    given = list(spikes.values()) if isinstance(spikes, dict) else [tensor.numpy() for tensor in spikes]
    told = cost.summary["spikes_per_sample"]
    assert told["input"] == pytest.approx(np.asarray(given[0]).sum() / 32)
    assert told["output"] == pytest.approx(np.asarray(given[-1]).sum() / 32)
    assert told["output"] > 0
    assert cost.scope == scope
    assert cost.energy_per_classification_J is not None
    weights = [names["fc1"], names["fc2"]] if "fc1" in names else []
    if weights:  # every neuron with every one: the counts by hand
        events = np.asarray(given[0]).sum() * 40 + np.asarray(given[1]).sum() * 10
        assert cost.summary["synaptic_events_per_sample"] == pytest.approx(events / 32)

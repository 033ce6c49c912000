"""The picture of the page that the README shows: a study of real trials, opened by `nas serve`, drawn by Chromium.

Every trial trains a multilayer perceptron on scikit-learn's handwritten digits and times it on this machine.  A minute or two;
needs the extra `web`, scikit-learn, playwright and a Chromium of the system.

    python experiments/web_scale/picture.py --to docs/serve.png
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pyglove as pg
from playwright.sync_api import expect, sync_playwright
from sklearn.datasets import load_digits
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import train_test_split
from sklearn.neural_network import MLPClassifier

import nas

SPACE = nas.Space(
    pg.Dict(
        depth=pg.oneof([1, 2, 3]),
        width=pg.oneof([8, 16, 24, 32, 48, 64, 96, 128]),
        activation=pg.oneof(["relu", "tanh", "logistic"]),
        pixels=pg.oneof([16, 32, 48, 64]),
        epochs=pg.oneof([8, 16, 24]),
    ),
    name="mlp",
)


def evaluate(arch: nas.Arch) -> dict[str, float]:
    """Held-out accuracy, exact size, and the time for one image with its interquartile range."""
    chosen = arch.choices
    images, labels = load_digits(return_X_y=True)
    kept = np.argsort(images.var(axis=0))[-chosen["pixels"] :]  # the pixels that differ most
    train, test, known, truth = train_test_split(images[:, kept] / 16, labels, test_size=0.4, random_state=0)
    model = MLPClassifier(
        [chosen["width"]] * chosen["depth"], activation=chosen["activation"], max_iter=chosen["epochs"], random_state=0
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # epochs are a decision
        model.fit(train, known)
    times = [_timed(model, test[:64]) / 64 for _ in range(60)][10:]
    low, median, high = np.percentile(times, [25, 50, 75])
    return {
        "accuracy": float(model.score(test, truth)),
        "latency_ms": float(median),
        "latency_spread_ms": float(high - low),
        "latency_noisy": float(high - low > 0.2 * median),
        "params": float(sum(one.size for one in (*model.coefs_, *model.intercepts_))),
    }


def _timed(model: Any, images: np.ndarray) -> float:
    start = time.perf_counter()
    model.predict_proba(images)
    return (time.perf_counter() - start) * 1e3


def search(store: Path, trials: int) -> None:
    """A study in the database, evaluated in this process."""
    study = nas.Study(
        "digits-mlp",
        space=SPACE,
        objectives=["max accuracy", "min params"],
        constraints=["latency_ms <= 0.0025"],
        evaluators=[evaluate],
        algorithm=nas.NSGA2(population=20, seed=0),
        store=store,
        trials=trials,
    )
    study.run(workers=0)
    study.close()


def draw(store: Path, to: Path, where: str) -> str:
    """Open the study with a server of its own, and keep what Chromium shows; what the page says of the front."""
    chromium = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if chromium is None:
        raise SystemExit("Chromium is not installed; apt-get install chromium")
    command = [sys.executable, "-m", "nas", "serve", "--store", store.name, "--port", "0"]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=store.parent)
    try:
        assert server.stdout is not None
        address = next(word for line in server.stdout for word in line.split() if word.startswith("http"))
        with sync_playwright() as driver:
            browser = driver.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
            page = browser.new_page(viewport={"width": 1280, "height": 1190})
            page.goto(f"{address}?study=digits-mlp&where={where}")
            page.locator("#best").wait_for()
            page.locator("#front-said").wait_for()
            expect(page.locator(".card[aria-busy]")).to_have_count(0, timeout=60_000)
            to.parent.mkdir(parents=True, exist_ok=True)
            page.screenshot(path=to)
            said = page.locator("#front-said").inner_text()
            browser.close()
    finally:
        server.terminate()
        server.wait()
    return said


def main() -> None:
    """Search, open, draw."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--to", type=Path, default=Path("docs/serve.png"), help="PNG to write")
    parser.add_argument("--trials", type=int, default=160)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        search(Path(folder) / "digits.db", options.trials)
        said = draw(Path(folder) / "digits.db", options.to, "accuracy+>=+0.6+and+params+<=+10_000")
    print(json.dumps({"picture": str(options.to), "page": said}))


if __name__ == "__main__":
    main()

"""Zero-cost proxies against closed forms and second, slow implementations."""

from __future__ import annotations

import copy
import math
import pickle
import random

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

import nas
from nas.errors import EvaluationError
from nas.proxies import NAMES, PROXIES, UNDEFINED, Probe, Proxies
from nas.train import Classification, digits
from nas.train.task import Batch
from searchspaces import nasbench201
from tests.conformance.evaluator import EvaluatorConformance
from tests.supernet import families


class Summed(Classification):
    """The loss is the sum of a sample's outputs, averaged: its gradients can be written down."""

    def loss(self, output, batch):
        return output.sum(1).mean()


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def task(kind=Classification, samples=6, width=5, classes=4):
    data = draw(samples, width), torch.arange(samples) % classes
    return kind(data, data, batch=samples)


def probe(module, kind=Classification, inputs=None, **more):
    found = task(kind)
    batch = next(found.train_batches(0)) if inputs is None else Batch(inputs, torch.arange(len(inputs)) % 4)
    return Probe(module, batch, found, **more)


def chain(*, hidden=7, activation=None, seed=0):
    torch.manual_seed(seed)
    parts = [nn.Linear(5, hidden, bias=False), activation or nn.Identity(), nn.Linear(hidden, 4, bias=False)]
    return nn.Sequential(*parts)


# -- gradients of weights


def test_gradient_scores_of_a_linear_chain_are_the_closed_form():
    net = chain()
    first, last = (net[at].weight.detach() for at in (0, 2))
    x = probe(net, Summed).batch.inputs
    back = last.sum(0)  # of the hidden units
    into = torch.outer(back, x.mean(0)), (x @ first.T).mean(0).expand(4, -1)
    expected = sum(one.norm() for one in into)
    assert PROXIES["grad_norm"](probe(net, Summed)) == pytest.approx(float(expected), rel=1e-5)
    expected = sum((one * weight).abs().sum() for one, weight in zip(into, (first, last), strict=True))
    assert PROXIES["snip"](probe(net, Summed)) == pytest.approx(float(expected), rel=1e-5)
    hidden, output, n = x @ first.T, x @ first.T @ last.T, len(x)
    expected = ((hidden * back / n) ** 2).mean(0).sum() / 2 + ((output / n) ** 2).mean(0).sum() / 2
    assert PROXIES["fisher"](probe(net, Summed)) == pytest.approx(float(expected), rel=1e-5)


def test_grasp_is_the_change_of_the_gradient_along_itself():
    net = chain(activation=nn.Tanh()).double()
    seen = probe(net, inputs=draw(6, 5).double())
    weights = [net[0].weight, net[2].weight]

    def gradient():
        return [one.clone() for one in torch.autograd.grad(seen.loss(), weights)]

    @torch.no_grad()
    def move(by):
        for weight, one in zip(weights, start, strict=True):
            weight.add_(one, alpha=by)

    start, step = gradient(), 1e-5
    ends = []
    for by in (step, -step):
        move(by)
        ends.append(gradient())
        move(-by)
    product = sum(((a - b) / (2 * step) * w.detach()).sum() for a, b, w in zip(*ends, weights, strict=True))
    assert PROXIES["grasp"](seen) == pytest.approx(-float(product), rel=1e-6)


def test_synflow_of_a_chain_is_the_flow_once_a_layer():
    net = chain(activation=nn.ReLU())
    flow = (net[2].weight.abs() @ net[0].weight.abs()).sum().item()
    assert PROXIES["synflow"](probe(net)) == pytest.approx(math.log(2 * flow), rel=1e-6)
    normed = nn.Sequential(net[0], nn.BatchNorm1d(7), nn.ReLU(), net[2])
    assert PROXIES["synflow"](probe(normed)) == PROXIES["synflow"](probe(net))  # norms are passed by


def test_synflow_of_a_hundred_wide_layers_is_finite():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(5, 200), *(nn.Linear(200, 200) for _ in range(100)), nn.Linear(200, 4))
    assert 100 < PROXIES["synflow"](probe(net)) < 1000


def test_an_activation_in_place_changes_no_score():
    for name in ("fisher", "grad_norm", "naswot", "grasp"):
        ours, theirs = (PROXIES[name](probe(chain(activation=nn.ReLU(inplace=flag)))) for flag in (True, False))
        assert ours == pytest.approx(theirs, rel=1e-6), name


# -- differences between samples


def test_jacob_cov_of_a_linear_net_has_one_direction():
    n, small = 6, 1e-5
    expected = -(math.log(n + small) + 1 / (n + small) + (n - 1) * (math.log(small) + 1 / small))
    assert PROXIES["jacob_cov"](probe(chain())) == pytest.approx(expected, rel=1e-6)


class Half(nn.Module):
    """Σ x³/3 has the gradient x²."""

    def forward(self, x):
        return x**3 / 3


def test_jacob_cov_is_that_of_the_correlations():
    x = draw(4, 5)
    eigenvalues = np.linalg.eigvalsh(np.corrcoef((x.double() ** 2).numpy()))
    expected = -sum(np.log(eigenvalues + 1e-5) + 1 / (eigenvalues + 1e-5))
    assert PROXIES["jacob_cov"](probe(Half(), inputs=x)) == pytest.approx(float(expected), rel=1e-4)


@pytest.mark.parametrize(
    "activation", [nn.ReLU(), nn.ReLU(inplace=True), nn.GELU(), nn.Hardswish(), nn.LeakyReLU(), nn.SiLU(), nn.ReLU6()]
)
def test_naswot_counts_agreeing_activations(activation):
    net = nn.Sequential(nn.Linear(2, 3, bias=False), activation, nn.Linear(3, 4))
    with torch.no_grad():
        net[0].weight.copy_(torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]]))
    x = torch.tensor([[1.0, 2.0], [3.0, -1.0], [-4.0, 2.0]])  # on: 111, 101, 010
    agreement = np.array([[3, 2, 1], [2, 3, 0], [1, 0, 3]])
    assert PROXIES["naswot"](probe(net, inputs=x)) == pytest.approx(math.log(np.linalg.det(agreement)))
    same = probe(net, inputs=torch.cat([x, x[:1]]))
    assert PROXIES["naswot"](same) == -math.inf  # two samples with one code
    assert PROXIES["naswot"](probe(chain())) == -math.inf  # no activation


# -- reaction to noise


def test_zen_of_a_linear_layer_is_the_length_of_what_it_makes_of_noise():
    net = nn.Sequential(nn.Linear(5, 300, bias=False), nn.Linear(300, 4))
    generator = torch.Generator().manual_seed(3)
    logs = []
    for _ in range(4):
        first, _ = (torch.randn(shape, generator=generator) for shape in ((300, 5), (4, 300)))
        _, noise = (torch.randn(6, 5, generator=generator) for _ in range(2))
        logs.append(math.log((0.01 * noise @ first.T).norm(dim=1).mean()))
    assert PROXIES["zen"](probe(net, seed=3)) == pytest.approx(sum(logs) / 4, abs=1e-3)


def test_zen_adds_back_what_a_norm_takes_away():
    plain = nn.Sequential(nn.Linear(5, 400), nn.Linear(400, 4))
    normed = nn.Sequential(nn.Linear(5, 400), nn.BatchNorm1d(400), nn.Linear(400, 4))
    found = [PROXIES["zen"](probe(net, inputs=draw(64, 5), seed=1)) for net in (plain, normed)]
    assert found[0] == pytest.approx(found[1], abs=0.1)
    deeper = nn.Sequential(nn.Linear(5, 400), nn.BatchNorm1d(400), nn.ReLU(), nn.Linear(400, 400), nn.Linear(400, 4))
    assert PROXIES["zen"](probe(deeper, inputs=draw(64, 5), seed=1)) > found[1] + 1


# -- likeness


def test_diswot_is_zero_for_the_teacher_and_the_formula_for_others():
    student, teacher = chain(activation=nn.ReLU()), chain(hidden=9, activation=nn.ReLU(), seed=1)
    assert PROXIES["diswot"](probe(student, teacher=student)) == 0.0
    seen = probe(student, teacher=teacher)
    x, labels = seen.batch.inputs, seen.batch.targets

    def unit(rows):
        gram = np.array([[sum(a * b) for b in rows] for a in rows])
        return gram / np.linalg.norm(gram, axis=1, keepdims=True)

    relations, semantics = [], []
    for net in (student, teacher):
        features = functional.relu(x @ net[0].weight.T).detach()
        wrong = 1 / 4 - functional.one_hot(labels, 4).float()  # of a classifier that knows nothing
        relations.append(unit(features.double().numpy()))
        semantics.append(unit((wrong.T @ features / len(x)).detach().double().numpy()))
    distance = sum(((a - b) ** 2).sum() / len(a) for a, b in (relations, semantics))
    assert PROXIES["diswot"](seen) == pytest.approx(-distance, rel=1e-4)
    assert PROXIES["diswot"](probe(teacher, teacher=student)) == pytest.approx(-distance, rel=1e-4)


def test_diswot_leaves_the_classifier_as_it_is():
    net = chain(activation=nn.ReLU())
    before = copy.deepcopy(net.state_dict())
    PROXIES["diswot"](probe(net, teacher=chain(hidden=9, activation=nn.ReLU(), seed=1)))
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert net[-1].weight.grad is None


def test_scores_of_several_initial_weights_are_averaged():
    cells = nasbench201.space(width=4, cells=1, channels=1)
    arch = cells.sample(random.Random(3))
    each = [Proxies(["naswot", "diswot", "params"], digits(), batch=8, seed=seed)(arch) for seed in (5, 6, 7)]
    three = Proxies(["naswot", "diswot", "params"], digits(), batch=8, seed=5, draws=3)
    for name, value in three(arch).items():
        assert value == pytest.approx(sum(one[name] for one in each) / 3)
    assert three.describe()["draws"] == 3
    assert "draws" not in Proxies(["naswot"], digits(), batch=8).describe()


@pytest.mark.parametrize("name", ["zen", "diswot"])
def test_what_earlier_versions_computed_otherwise_is_another_evaluator(name: str):
    said = Proxies([name], digits(), batch=8).describe()
    assert said.pop("features") == "before pooling"
    assert "features" not in Proxies(["naswot"], digits(), batch=8).describe()


class Pooled(nn.Module):
    """No method `features`, and pooling that no module does."""

    def __init__(self, wide: int = 5) -> None:
        super().__init__()
        self.body, self.norm, self.head = nn.Conv2d(1, wide, 3), nn.BatchNorm2d(wide), nn.Linear(wide, 40)

    def forward(self, x):
        return self.head(torch.relu(self.norm(self.body(x))).mean((2, 3)))


def test_features_before_pooling_are_found_in_models_that_do_not_name_them():
    from nas.proxies.probe import feature_map

    net, x = Pooled(), draw(6, 1, 8, 8)
    assert torch.equal(feature_map(net, x), net.norm(net.body(x)))
    plain = chain(activation=nn.ReLU())
    x = draw(6, 5)
    assert torch.equal(feature_map(plain, x), plain[:-1](x)), "nothing is pooled"


def test_diswot_says_what_it_needs():
    with pytest.raises(EvaluationError, match="diswot compares with a teacher; give one"):
        PROXIES["diswot"](probe(chain()))
    with pytest.raises(EvaluationError, match="student and teacher tell 4 and 6 classes apart"):
        PROXIES["diswot"](probe(chain(), teacher=nn.Linear(5, 6)))
    with pytest.raises(EvaluationError, match="Half has no linear layer"):
        PROXIES["diswot"](probe(Half(), teacher=Half()))


def test_a_model_that_says_its_features_is_asked():
    arch = nasbench201.space().largest
    net = nasbench201.space(width=4, cells=1, channels=1).build(nasbench201.space(width=4, cells=1, channels=1).largest)
    assert arch.choices == dict.fromkeys(nasbench201.EDGES, "nor_conv_3x3")
    x = draw(6, 1, 8, 8)
    from nas.proxies.probe import classified, feature_map

    maps, pooled = feature_map(net, x), classified(net, x)[0]
    assert maps.shape == (6, 16, 2, 2)
    torch.testing.assert_close(maps.mean((2, 3)), pooled)


# -- all of them


@pytest.mark.parametrize("name", PROXIES)
def test_a_probe_is_left_as_it_was(name):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(5, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Dropout(0.5), nn.Linear(32, 4)).eval()
    net[0].weight.requires_grad_(False)
    before = {key: value.clone() for key, value in net.state_dict().items()}
    value = PROXIES[name](probe(net, teacher=chain()))
    assert math.isfinite(value)
    assert all(torch.equal(value, net.state_dict()[key]) for key, value in before.items())
    assert all(parameter.grad is None for parameter in net.parameters())
    assert not any(one.training or one._forward_hooks for one in net.modules())
    assert [one.requires_grad for one in net.parameters()] == [False] + [True] * 5


class Tokens(nn.Module):
    """A transformer on integers."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(9, 8)
        self.layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True)
        self.head = nn.Linear(8, 4)

    def forward(self, tokens):
        return self.head(self.layer(self.embed(tokens)).mean(1))


@pytest.mark.parametrize("name", PROXIES)
def test_transformers_and_tokens_are_scored_or_refused(name):
    torch.manual_seed(0)
    tokens = torch.randint(0, 9, (6, 5), generator=torch.Generator().manual_seed(0))
    seen = probe(Tokens(), inputs=tokens, teacher=Tokens())
    if name in ("jacob_cov", "zen"):
        with pytest.raises(
            EvaluationError, match=f"{name} looks at changes of the input, and needs one tensor of real"
        ):
            PROXIES[name](seen)
    else:
        assert math.isfinite(PROXIES[name](seen))


@pytest.fixture(scope="module")
def cells():
    return nasbench201.space(width=4, cells=1, stages=2, channels=1)


class TestProxies(EvaluatorConformance):
    @pytest.fixture
    def space(self, cells):
        return cells

    @pytest.fixture
    def evaluator(self):
        return Proxies(NAMES, digits(), batch=16, seed=1)


def test_seeds_and_batches_matter_and_wider_is_more(cells):
    small, wide = (nasbench201.space(width=width, cells=1, stages=2, channels=1) for width in (4, 8))
    names = ["grad_norm", "synflow", "naswot", "zen", "params", "macs"]
    one, other = (Proxies(names, digits(), batch=16, seed=seed)(small.largest) for seed in (0, 1))
    assert all(one[name] != other[name] for name in names[:4])
    assert Proxies(["grad_norm"], digits(), batch=8)(small.largest)["grad_norm"] != one["grad_norm"]
    more = Proxies(names, digits(), batch=16)(wide.largest)
    assert all(more[name] > one[name] for name in names[1:])


def test_counts_are_those_of_the_supernet():
    net = nas.Supernet(families.linear_space(), example=torch.zeros(1, 3))
    data = draw(4, 3), torch.arange(4) % 2
    found = Proxies(["params", "macs"], Classification(data, data, batch=4))(net.space.largest)
    assert found == {"params": net.params(net.space.largest), "macs": net.macs(net.space.largest)}


def test_a_net_without_connection_gets_the_lowest_score(cells):
    found = Proxies(NAMES, digits(), batch=16)(cells.smallest)
    assert all(found[name] == UNDEFINED for name in ("synflow", "jacob_cov", "naswot", "zen"))
    assert all(found[name] == 0 for name in ("grad_norm", "snip", "grasp"))
    assert 0 < found["fisher"] < 1e-3  # the classifier's biases still answer
    assert math.isfinite(found["diswot"])


class Broken(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(5, 4)

    def forward(self, x):
        return (self.layer(x) - 1e3).log()


def test_a_net_of_nan_is_stored_as_undefined():
    space = nas.Space(nas.model(Broken)(), name="broken")
    found = Proxies(["grad_norm", "snip", "grasp", "fisher"], task())(space.largest)
    assert set(found.values()) == {UNDEFINED}


def test_values_are_rows_of_scores(cells):
    proxies = Proxies(["params", "naswot"], digits(), batch=8)
    archs = [cells.smallest, cells.largest]
    assert proxies.values(archs).tolist() == [list(proxies(arch).values()) for arch in archs]
    assert proxies.values([]).shape == (0, 2)


def test_the_teacher_is_an_arch_of_the_space(cells):
    default, largest = (Proxies(["diswot"], digits(), batch=8, teacher=one) for one in (None, cells.largest))
    arch = next(cells.neighbours(cells.largest))
    assert default(arch) == largest(arch)
    assert default(cells.largest) == {"diswot": 0.0}
    other = Proxies(["diswot"], digits(), batch=8, teacher=arch)
    assert other(arch) == {"diswot": 0.0}
    assert pickle.loads(pickle.dumps(other))(cells.largest) == other(cells.largest)
    with pytest.raises(
        EvaluationError, match="the teacher is an arch of space 'linear', and archs are of 'nasbench201'"
    ):
        Proxies(["diswot"], digits(), teacher=families.linear_space().largest).check(cells)


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"names": ["synflo"]}, "no proxy is named 'synflo'; there are params, .*; did you mean 'synflow'"),
        ({"names": []}, "name each once, and at least one"),
        ({"names": ["snip", "snip"]}, "name each once"),
        ({"task": "digits"}, "task='digits'; it is a nas.Task"),
        ({"batch": 7}, "batch=7 does not fit the task's batches of 6 samples; give 2 to 6"),
        ({"batch": 1}, "give 2 to 6"),
        ({"teacher": families.linear_space().largest}, "only diswot has one; add it to the names or leave"),
    ],
)
def test_mistakes_get_one_sentence(given, sentence):
    with pytest.raises(EvaluationError, match=sentence):
        Proxies(**{"names": ["snip"], "task": task(), **given})


def test_a_study_runs_on_proxies_alone(tmp_path, cells):
    proxies = Proxies(["naswot", "params"], digits(), batch=8)
    study = nas.Study(
        "free",
        space=cells,
        objectives=["max naswot", "min params"],
        evaluators=[proxies],
        store=tmp_path / "s.db",
        trials=6,
    )
    study.run(workers=0, progress=False)
    assert {"naswot", "params"} <= set(study.front().columns)


@pytest.mark.gpu
def test_a_gpu_scores_as_the_cpu_does(cells):
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    ours, theirs = (Proxies(NAMES, digits(), batch=16, device=device)(cells.largest) for device in ("cuda", "cpu"))
    assert ours == pytest.approx(theirs, rel=0.02)

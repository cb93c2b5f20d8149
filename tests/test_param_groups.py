"""``param_groups`` gives each parameter the hyperparameters that it should have."""

import copy
import pickle
import re

import pytest
import torch
from torch import nn

import polyak

TENSOR = torch.tensor(0.5)
RATES = {"lr": 0.1, "layer_decay": 0.5}


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm = nn.LayerNorm(4)
        self.mlp = nn.Sequential(nn.Linear(4, 8), nn.GELU(), nn.Linear(8, 4))


class Transformer(nn.Module):
    """Embeddings, blocks, a norm and a head, whose weight may be the embeddings'."""

    def __init__(self, tied=False):
        super().__init__()
        self.position = nn.Parameter(torch.zeros(1, 4))
        self.embed = nn.Embedding(10, 4)
        self.blocks = nn.ModuleList(Block() for _ in range(3))
        self.norm = nn.LayerNorm(4)
        self.head = nn.Linear(4, 10, bias=False)
        if tied:
            self.head.weight = self.embed.weight


class Residual(nn.Module):
    """As ResNets: a stem, stages that are Sequentials of blocks, and a head."""

    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 4, 3)
        self.bn1 = nn.BatchNorm2d(4)
        self.layer1 = nn.Sequential(nn.Conv2d(4, 4, 3), nn.Conv2d(4, 4, 3))
        self.layer2 = nn.Sequential(nn.Conv2d(4, 4, 3), nn.Conv2d(4, 4, 3))
        self.fc = nn.Linear(4, 2)


class Lenet(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 3)
        self.fc = nn.Linear(4, 2)


def of_all(groups, key):
    """The value of each parameter, by its name."""
    return {name: group.get(key) for group in groups for name in group["param_names"]}


def names_with(groups, key, value):
    return [name for name, own in of_all(groups, key).items() if own == value]


def all_names(model):
    return [name for name, _ in model.named_parameters()]


# What is in the groups


@pytest.mark.parametrize("tied", [False, True])
def test_every_parameter_is_in_one_group_with_its_name(tied):
    model = Transformer(tied)
    groups = polyak.param_groups(model, 0.1, **RATES)
    found = [
        pair
        for group in groups
        for pair in zip(group["param_names"], group["params"], strict=True)
    ]
    assert len(found) == len(all_names(model))
    assert all(param is dict(found)[name] for name, param in model.named_parameters())


def test_frozen_parameters_are_left_out():
    model = Transformer()
    model.embed.requires_grad_(False)
    model.blocks[0].requires_grad_(False)
    kept = [name for name, param in model.named_parameters() if param.requires_grad]
    assert sorted(of_all(polyak.param_groups(model, 0.1), "lr")) == sorted(kept)


def test_equal_hyperparameters_make_one_group():
    assert len(polyak.param_groups(Transformer(), 0.0)) == 1
    assert len(polyak.param_groups(Transformer(), 0.1)) == 2
    overrides = {"head.*": {"weight_decay": 0}}
    assert len(polyak.param_groups(Transformer(), 0.1, overrides=overrides)) == 2


@pytest.mark.parametrize(
    ("one", "other", "groups"),
    [
        ((0.9, 0.95), (0.9, 0.95), 1),
        ([0.9], [0.8], 2),
        ({"a": [1], "b": 2}, {"b": 2, "a": [1]}, 1),
        ({"a": 1}, {"a": 2}, 2),
        (TENSOR, TENSOR, 1),
        (TENSOR, TENSOR.clone(), 2),
        (1, torch.tensor(1), 2),
    ],
)
def test_hyperparameters_of_any_kind_are_compared(one, other, groups):
    """A tensor is equal to itself alone: it may change."""
    overrides = {"conv.*": {"betas": one}, "fc.*": {"betas": other}}
    made = polyak.param_groups(Lenet(), no_decay=(), overrides=overrides)
    assert len(made) == groups


def test_groups_and_their_parameters_are_in_the_order_of_the_model():
    model = Transformer()
    groups = polyak.param_groups(model, 0.1, **RATES)
    order = {name: index for index, name in enumerate(all_names(model))}
    places = [[order[name] for name in group["param_names"]] for group in groups]
    assert places == sorted(sorted(group) for group in places)


def test_what_is_not_given_is_left_to_the_optimizer():
    groups = polyak.param_groups(Lenet())
    assert [set(group) - {"params", "param_names"} for group in groups] == [
        set(),
        {"weight_decay"},
    ]
    optimizer = polyak.AdamW(groups, lr=0.5, weight_decay=0.3)
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.3, 0]
    assert [group["lr"] for group in optimizer.param_groups] == [0.5, 0.5]


@pytest.mark.parametrize("library", [polyak, torch.optim])
def test_optimizers_take_the_groups(library):
    model = Transformer(tied=True)
    groups = polyak.param_groups(
        model, 0.1, overrides={"norm.*": {"betas": (0.8, 0.9)}}, **RATES
    )
    expected = copy.deepcopy([{**group, "params": None} for group in groups])
    optimizer = library.AdamW(groups)
    for group, due in zip(optimizer.param_groups, expected, strict=True):
        due.pop("params")
        assert {key: group[key] for key in due} == due
    assert sum(len(group["params"]) for group in optimizer.param_groups) == len(
        all_names(model)
    )


@pytest.mark.parametrize("library", [polyak, torch.optim])
def test_a_step_uses_each_ones_own_values(library):
    """With SGD, lr * grad and the decay are seen in the parameters."""
    model = Lenet().double()
    before = {name: param.detach().clone() for name, param in model.named_parameters()}
    groups = polyak.param_groups(model, 0.5, lr=0.1, overrides={"fc.*": {"lr": 0.2}})
    for param in model.parameters():
        param.grad = torch.ones_like(param)
    library.SGD(groups).step()
    for name, param in model.named_parameters():
        lr = 0.2 if name.startswith("fc") else 0.1
        decay = 0.5 if name.endswith("weight") else 0.0
        expected = before[name] - lr * (1 + decay * before[name])
        torch.testing.assert_close(param.detach(), expected, rtol=1e-14, atol=1e-14)


def test_groups_are_copied_and_pickled():
    groups = polyak.param_groups(Lenet(), 0.1)
    for other in (copy.deepcopy(groups), pickle.loads(pickle.dumps(groups))):
        assert type(other) is polyak.ParamGroups
        assert str(other) == str(groups)


# Decay


def test_norms_and_biases_do_not_decay():
    class RMSScaleNorm(nn.Module):
        def __init__(self):
            super().__init__()
            self.scale = nn.Parameter(torch.ones(2, 2))

    class Own(nn.GroupNorm):
        pass

    model = nn.ModuleDict(
        {
            "linear": nn.Linear(2, 2),
            "embedding": nn.Embedding(2, 2),
            "layer_norm": nn.LayerNorm((2, 2)),
            "batch_norm": nn.BatchNorm2d(2),
            "scale_norm": RMSScaleNorm(),
            "own": Own(1, 2),
            "prelu": nn.PReLU(),
        }
    )
    groups = polyak.param_groups(model, 0.1)
    decayed = ["linear.weight", "embedding.weight"]
    assert names_with(groups, "weight_decay", 0.1) == decayed
    assert len(names_with(groups, "weight_decay", 0)) == len(all_names(model)) - 2


@pytest.mark.parametrize(
    ("no_decay", "undecayed"),
    [
        ((), []),
        ("*.bias", ["conv.bias", "fc.bias"]),
        ("fc.*", ["fc.weight", "fc.bias"]),
        (["fc.b*", "conv.w*"], ["conv.weight", "fc.bias"]),
        (lambda name, param: param.dim() == 4, ["conv.weight"]),
        (lambda name, param: name == "fc.bias", ["fc.bias"]),
        (lambda name, param: False, []),
        (["fc.bias", lambda name, param: param.dim() == 4], ["conv.weight", "fc.bias"]),
        ((["fc.bias"], ["conv.*"]), ["conv.weight", "conv.bias", "fc.bias"]),
    ],
)
def test_what_does_not_decay_can_be_chosen(no_decay, undecayed):
    groups = polyak.param_groups(Lenet(), 0.1, no_decay=no_decay)
    assert sorted(names_with(groups, "weight_decay", 0)) == sorted(undecayed)


def test_a_tied_parameter_has_all_its_names():
    model = Transformer(tied=True)
    groups = polyak.param_groups(model, overrides={"head.*": {"lr": 0.1}})
    assert names_with(groups, "lr", 0.1) == ["embed.weight"]


# Layers


def test_rates_fall_from_the_head_to_the_embeddings():
    model = Transformer()
    rates = of_all(polyak.param_groups(model, **RATES), "lr")
    depth = {"position": 0, "embed": 0, "blocks.0": 1, "blocks.1": 2, "blocks.2": 3}
    depth |= {"norm": 4, "head": 4}
    for name, lr in rates.items():
        (layer,) = [layer for layer in depth if re.match(rf"{layer}(\.|$)", name)]
        assert lr == 0.1 * 0.5 ** (4 - depth[layer])


def test_blocks_of_several_stages_are_counted_through():
    rates = of_all(polyak.param_groups(Residual(), **RATES), "lr")
    layers = ["conv1", "layer1.0", "layer1.1", "layer2.0", "layer2.1", "fc"]
    for depth, layer in enumerate(layers):
        assert (
            rates[f"{layer}.weight"]
            == rates[f"{layer}.bias"]
            == 0.1 * 0.5 ** (5 - depth)
        )
    assert rates["bn1.weight"] == rates["conv1.weight"]


def test_of_a_sequential_each_weight_is_a_layer_with_the_norm_behind_it():
    model = nn.Sequential(
        nn.Linear(2, 2), nn.LayerNorm(2), nn.ReLU(), nn.Linear(2, 2), nn.Linear(2, 2)
    )
    rates = of_all(polyak.param_groups(model, **RATES), "lr")
    assert rates["0.weight"] == rates["1.weight"] == 0.1 * 0.5**2
    assert rates["3.weight"] == 0.1 * 0.5
    assert rates["4.weight"] == 0.1


def test_a_container_of_one_is_no_sequence():
    inside = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    rates = of_all(polyak.param_groups(nn.Sequential(inside), **RATES), "lr")
    assert rates["0.0.weight"] == 0.1 * 0.5
    assert rates["0.1.weight"] == 0.1


def test_frozen_layers_count():
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2), nn.Linear(2, 2))
    model[1].requires_grad_(False)
    rates = of_all(polyak.param_groups(model, **RATES), "lr")
    assert rates["0.weight"] == 0.1 * 0.5**2


@pytest.mark.parametrize(
    "layers",
    [
        ["conv.*", "fc.*"],
        ["conv.*", "*"],
        [
            lambda name, param: param.dim() == 4 or name == "conv.bias",
            ["fc.w*", "fc.b*"],
        ],
        lambda name: 3 if name.startswith("fc") else 2,
        lambda name: torch.tensor(int(name.startswith("fc"))),
    ],
)
def test_the_user_says_what_the_layers_are(layers):
    rates = of_all(polyak.param_groups(Lenet(), layers=layers, **RATES), "lr")
    assert rates["conv.weight"] == rates["conv.bias"] == 0.1 * 0.5
    assert rates["fc.weight"] == rates["fc.bias"] == 0.1


def test_a_tensor_as_learning_rate_is_scaled():
    lr = torch.tensor(0.1, dtype=torch.float64)
    groups = polyak.param_groups(Residual(), lr=lr, layer_decay=0.5)
    assert [group["lr"].item() for group in groups[::2]] == [
        0.1 * 0.5 ** (5 - depth) for depth in range(6)
    ]
    assert groups[0]["lr"] is groups[1]["lr"]


# Overrides


def test_overrides_come_last_and_the_later_ones_win():
    overrides = {
        "blocks.*": {"lr": 3.0, "eps": 1e-6},
        "blocks.1.*": {"lr": 4.0},
        "blocks.1.norm.bias": {"weight_decay": 0.7},
    }
    groups = polyak.param_groups(Transformer(), 0.1, overrides=overrides, **RATES)
    rates, eps = of_all(groups, "lr"), of_all(groups, "eps")
    assert rates["blocks.0.norm.weight"] == 3.0
    assert rates["blocks.1.norm.weight"] == 4.0
    assert eps["blocks.1.norm.weight"] == 1e-6
    assert eps["head.weight"] is None
    assert names_with(groups, "weight_decay", 0.7) == ["blocks.1.norm.bias"]


def test_a_pattern_of_frozen_parameters_alone_is_no_mistake():
    model = Lenet()
    model.conv.requires_grad_(False)
    groups = polyak.param_groups(model, overrides={"conv.*": {"lr": 0.1}})
    assert names_with(groups, "lr", 0.1) == []


# The table


def test_the_table():
    groups = polyak.param_groups(
        Transformer(), 0.01, lr=1e-3, overrides={"head.*": {"betas": (0.9, 0.5)}}
    )
    assert str(groups) == repr(groups)
    assert str(groups).splitlines() == [
        "group  parameters  numbers     lr  weight_decay       betas  names",
        "    0           8      236  0.001          0.01           -  position, "
        "embed.weight, blocks.*.mlp.*.weight",
        "    1          14       68  0.001             0           -  "
        "blocks.*.norm.weight, blocks.*.norm.bias, blocks.*.mlp.*.bias and 2 more",
        "    2           1       40  0.001          0.01  (0.9, 0.5)  head.weight",
    ]


def test_the_table_has_what_an_optimizer_added_and_is_on():
    groups = polyak.param_groups(Lenet(), 0.01)
    torch.optim.SGD(groups, lr=0.25, nesterov=True, momentum=0.9)
    header, *rows = str(groups).splitlines()
    assert "nesterov" in header
    assert "maximize" not in header
    assert all("0.25" in row for row in rows)


# Bad input


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (dict(weight_decay=-1), ValueError, "weight_decay value: -1 .* >= 0"),
        (dict(weight_decay="0"), TypeError, "number for weight_decay, got '0'"),
        (dict(lr=-0.1), ValueError, "learning rate: -0.1"),
        (dict(lr=1, layer_decay=0), ValueError, "layer_decay .* > 0"),
        (dict(lr=1, layer_decay=1.5), ValueError, "layer_decay .* <= 1"),
        (
            dict(layer_decay=0.5),
            ValueError,
            r"lr must be given: param_groups\(model, lr=",
        ),
        (dict(layers=["*"]), ValueError, "layers are for layer_decay"),
        (RATES, ValueError, "no layers in Lenet.*layers="),
        (RATES | {"layers": "conv.*"}, TypeError, "a list with a pattern for each"),
        (RATES | {"layers": 3}, TypeError, "a list with a pattern for each"),
        (RATES | {"layers": ["conv.*"]}, ValueError, "'fc.weight' is in none"),
        (RATES | {"layers": ["cnv.*", "*"]}, ValueError, r"Did you mean 'conv\.\*'"),
        (RATES | {"layers": lambda name: None}, TypeError, "None for 'conv.weight'"),
        (RATES | {"layers": lambda name: -1}, ValueError, "-1 for 'conv.weight'"),
        (dict(no_decay=3), TypeError, "no_decay takes a pattern"),
        (dict(no_decay=[3]), TypeError, "no_decay takes a pattern"),
        (dict(no_decay="fc.wight"), ValueError, "Did you mean 'fc.weight'"),
        (dict(no_decay="*.wight"), ValueError, r"Did you mean '\*.weight'"),
        (dict(no_decay=["bias"]), ValueError, r"Did you mean '\*.bias'"),
        (dict(no_decay="conv"), ValueError, r"Did you mean 'conv\.\*'"),
        (dict(no_decay="zzz"), ValueError, "Names are 'conv.weight', 'conv.bias'"),
        (dict(overrides={"fcc.*": {}}), ValueError, r"overrides: .* mean 'fc\.\*'"),
        (dict(overrides={"fc.*": 0.1}), TypeError, "dicts of hyperparameters by"),
        (dict(overrides={3: {}}), TypeError, "dicts of hyperparameters by pattern"),
        (dict(overrides={"*": {"params": []}}), ValueError, "has 'params'"),
    ],
)
def test_bad_arguments(arguments, error, message):
    with pytest.raises(error, match=message):
        polyak.param_groups(Lenet(), **arguments)


@pytest.mark.parametrize(
    ("model", "error", "message"),
    [
        (Lenet().parameters(), TypeError, "give it the model itself"),
        (nn.ReLU(), ValueError, "no parameter to train in ReLU"),
        (Lenet().requires_grad_(False), ValueError, "False for all 4"),
        (nn.LazyLinear(2), ValueError, "'weight' has no shape yet"),
    ],
)
def test_bad_models(model, error, message):
    with pytest.raises(error, match=message):
        polyak.param_groups(model, 0.1)


def test_a_misspelt_hyperparameter_is_found_by_the_optimizer():
    groups = polyak.param_groups(Lenet(), overrides={"fc.*": {"weight_decya": 0.1}})
    with pytest.raises(ValueError, match="Did you mean 'weight_decay'"):
        polyak.AdamW(groups)

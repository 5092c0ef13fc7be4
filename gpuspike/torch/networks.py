"""Networks as modules of PyTorch's, and back."""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

from torch import nn

from gpuspike.api.network import Network
from gpuspike.errors import ConfigError, ShapeError
from gpuspike.network.delays import DELAYS
from gpuspike.network.parameters import LayerParameters, Parameters
from gpuspike.torch.convolution import FirstSpikesConv2d, Spiking
from gpuspike.torch.losses import FirstSpikeLoss
from gpuspike.torch.module import FirstSpikes, told


def layers_of(net: Network, *, max_weight_grad: float = math.inf) -> nn.Sequential:
    """The layers of a `gs.Network` as modules, with copies of its weights.

    Its delays are learnt on; constants of neurons that it has learnt stay as they are. A chip under the
    network is not part of them.

    Raises:
        ConfigError: a convolution with delays.
    """
    modules, replicas = nn.Sequential(), net.replicas if net.replicas > 1 else None
    for layer, learnt in zip(net.architecture.layers, net.parameters, strict=True):
        delays = [DELAYS[name] for name in learnt.free if name in DELAYS]
        options: dict[str, Any] = {
            "neuron": layer.neuron,
            "replicas": replicas,
            "weight_mean": 0.0,
            "weight_std": 0.0,
            "max_weight_grad": max_weight_grad,
        }
        if (maps := layer.convolution) is None:
            options |= {"delays": delays, "delay_rule": net.architecture.delay_rule if delays else None}
            module: Spiking = FirstSpikes(layer.n_in, layer.n_out, layer.bias_times, **options)
        elif delays:
            raise ConfigError(f"convolutions of PyTorch learn no delays, got {'+'.join(delays)}")
        else:
            module = FirstSpikesConv2d(**vars(maps), bias_times=layer.bias_times, **options)
        for name, array in learnt.arrays().items():
            if name == "weights" or name in DELAYS:
                setattr(module, name, nn.Parameter(told(array, replicas)))
        modules.append(module)
    return modules


_HARMLESS = (
    *(nn.Identity, nn.Flatten, nn.Unflatten, nn.modules.loss._Loss, FirstSpikeLoss),
    *(nn.ParameterList, nn.ParameterDict),
    *(nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d),  # when a network answers
)
"""What leaves the times of spikes as they are, or does not stand between layers."""


def _beside(model: nn.Module, name: str = "model") -> Iterator[tuple[str, nn.Module]]:
    """What neither is a layer nor holds one, and may change spike times: its name, and itself."""
    if isinstance(model, (FirstSpikes, FirstSpikesConv2d, *_HARMLESS)):
        return
    held = any(isinstance(module, Spiking) for module in model.modules())
    if not (held or isinstance(model, (nn.Sequential, nn.ModuleList, nn.ModuleDict))):
        yield name, model
    else:
        for own, module in model.named_children():
            yield from _beside(module, f"{name}.{own}")


def network_of(model: nn.Module, *, backend: str = "auto", seed: int = 0) -> Network:
    """The `gs.Network` of a model's layers, in the order of their declaration, with copies of their weights.

    It can be put on a chip, priced, saved, and trained on. What a `forward` of one's own does, between the
    layers or in another order, cannot be seen here and is not part of it.

    Args:
        backend, seed: of the network.

    Raises:
        ConfigError: no model, no `FirstSpikes` in it, modules beside them that may change spike times, or
            layers that differ in neuron, delays, replicas or dtype.
        ShapeError: layers of which one does not fit the next.
        ValueRangeError: neurons with constants of their own.
    """
    if not isinstance(model, nn.Module):
        raise ConfigError(
            f"model must be a torch.nn.Module, of layers a torch.nn.Sequential, got {type(model).__name__}"
        )
    layers = [module for module in model.modules() if isinstance(module, Spiking)]
    if not layers:
        raise ConfigError(f"a model must have layers of FirstSpikes, got {type(model).__name__} without")
    if strange := [f"{name} ({type(module).__name__})" for name, module in _beside(model)]:
        raise ConfigError(
            f"a network has layers of FirstSpikes alone, got {', '.join(strange)} beside them; "
            "network_of(torch.nn.Sequential(...)) of the layers leaves them out"
        )
    first = layers[0]
    for number, (before, layer) in enumerate(pairwise(layers), start=1):
        if layer.n_in != before.n_out:
            raise ShapeError(
                f"layer {number} must have {before.n_out} inputs, as many as the one before, got {layer.n_in}"
            )
        if isinstance(layer, FirstSpikesConv2d):
            found = before.out_shape if isinstance(before, FirstSpikesConv2d) else f"{before.n_out} neurons"
            if found != layer.convolution.shape:
                raise ShapeError(
                    f"layer {number} must see what the one before answers, {found}, "
                    f"got an image of {layer.convolution.shape}"
                )
        for name, words in (
            ("neuron", "one neuron"),
            ("replicas", "one replicas"),
            ("delays", "delays of the same kinds"),
            ("delay_rule", "one delay_rule"),
        ):
            if getattr(layer, name) != getattr(first, name):
                raise ConfigError(f"all layers must have {words}, got another one in layer {number}")
        if layer.weights.dtype != first.weights.dtype:
            raise ConfigError(f"all layers must have one dtype, got {layer.weights.dtype} in layer {number}")
    learnt = [{name: own.detach().cpu().numpy().copy() for name, own in layer.learnt()} for layer in layers]
    net = Network(
        [
            list(first.convolution.shape) if isinstance(first, FirstSpikesConv2d) else first.n_in,
            *(entry for layer in layers for entry in layer.entries()),
        ],
        [layer.bias_times for layer in layers],
        seed=seed,
        replicas=first.replicas or 1,
        neuron=first.neuron,
        delays=first.delays,
        delay_rule=first.delay_rule if first.delays else None,
        dtype=learnt[0]["weights"].dtype,
        backend=backend,
    )
    made = []
    for arrays in learnt:
        arrays = {name: array[None] if first.replicas is None else array for name, array in arrays.items()}
        made.append(LayerParameters(arrays.pop("weights"), arrays))
    net.parameters = Parameters(made)
    net.parameters.check([layer.neuron for layer in net.architecture.layers])
    return net

"""Stochastic activations: `nn.Module`s that stand where an activation stood."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any, ClassVar, cast

import torch
from torch import Tensor, nn

from stocnoise import functional
from stocnoise.activations import Activation, Operation
from stocnoise.checks import check_device, check_function, check_number, check_share, check_whole, optional
from stocnoise.distributed import gather_moments
from stocnoise.errors import ScriptedModelError, UncalibratedWarning
from stocnoise.ops import transformed
from stocnoise.recomputation import Passes, recomputing
from stocnoise.ways import apply_update

Function = Activation | Callable[[Tensor], Tensor]


class Notice:
    """Something to be said once, by whichever of a model's layers comes to it first."""

    def __init__(self) -> None:
        self.given = False

    def uncalibrated(self) -> None:
        if not self.given:
            self.given = True
            warnings.warn(
                "this stochastic model has seen no batch (sigma = 0), so it is deterministic: train it, load a state, "
                "or fill sigma with stocnoise.calibrate(model, loader)",
                UncalibratedWarning,
                stacklevel=4,
            )


class StochasticActivation(nn.Module):
    """h'(x) = h(x + √γ · σ_c · z), z ~ N(0, 1) i.i.d. per element, c the element's channel.

    In training each batch then moves σ: σ_c ← (1−α)·σ_c + α·STD_c(x), STD_c over every dimension but the channel, with
    Bessel's correction, of the input without the noise. The noise of a batch uses σ from before that batch. In `eval()`
    the noise stays on and σ stands still. The gradient is pathwise: noise and σ are constants of the pass.

    Channels whose STD is not finite keep their σ. In a process group STD is that of the global batch. Under activation
    checkpointing the recomputation sees the σ that the first pass saw and moves nothing, for up to 16 forwards before
    their backward passes, in any order; more are an error, on a GPU NaN gradients. Under `torch.compile`, or for more,
    pass `functional.checkpoint_contexts` to the checkpoint.

    Args:
        num_channels: C, the size of the input along `channel_dim`.
        activation: h, an `Activation` of the fused operation, or any callable or module to apply after the noise.
        alpha: α in [0, 1], the weight of the newest batch.
        gamma: γ ≥ 0, the variance of the noise in units of σ².
        channel_dim: the channel's dimension; negative counts from the end (−1 for tokens (B, N, C)).
        inplace: also overwrite the input, as the in-place activation did that stood here.
        donated: the input may be overwritten, which on a CPU saves time: an in-place activation stood here, and nothing
            reads the input again.

    Buffers: `sigma` (C,) float32, `gamma` 0-dim float32, `num_batches_tracked` 0-dim int64. They stay float32 when the
    model is cast to half precision.

    Source: Tan, Elovici, Binder, ICPR 2020, section III.

    Example:
        >>> layer = stocnoise.StochasticActivation(8, activation=nn.ELU(), alpha=0.1)
        >>> y = layer(torch.randn(4, 8, 5, 5))
        >>> layer.num_batches_tracked
        tensor(1)
    """

    sigma: Tensor
    gamma: Tensor
    num_batches_tracked: Tensor
    sigma_before: Tensor

    default: ClassVar[Activation | None] = None
    """The activation of a class that is named for one."""

    adaptive: ClassVar[bool] = True
    """Whether batches move sigma."""

    def __init__(
        self,
        num_channels: int,
        *,
        activation: Function | None = None,
        alpha: float = 0.5,
        gamma: float = 0.01,
        channel_dim: int = 1,
        inplace: bool = False,
        donated: bool = False,
        device: torch.device | str | None = None,
    ) -> None:
        super().__init__()
        activation = self.default if activation is None else activation
        if activation is None:
            raise TypeError(f"{type(self).__name__} needs an activation, such as torch.nn.ELU()")
        check_function("activation", activation, "a tensor, such as torch.nn.ELU()")
        check_whole("num_channels", num_channels)
        check_share("alpha", alpha)
        check_number("gamma", gamma)
        check_whole("channel_dim", channel_dim, least=-(2**63))
        optional(check_device, "device", device)
        self.num_channels = num_channels
        self.activation = activation
        self.alpha = alpha
        self.channel_dim = channel_dim
        self.inplace = inplace
        self.donated = donated and not inplace
        self.noise = True
        self.sigma_frozen = False
        self.fixed_seed: Tensor | None = None
        self.notice = Notice()
        self.passes = Passes()
        self.replaced: tuple[nn.Module, ...] = ()  # what stood here, for stocnoise.revert; not a submodule
        self.register_buffer("sigma", torch.zeros(num_channels, device=device))
        self.register_buffer("gamma", torch.tensor(float(gamma), device=device))
        self.register_buffer("num_batches_tracked", torch.tensor(0, device=device))
        self.register_buffer("sigma_before", torch.zeros(num_channels, device=device), persistent=False)

    @classmethod
    def for_activation(cls, activation: Function) -> type[StochasticActivation]:
        """The class of this family that stands where `activation` stood."""
        return cls

    def forward(self, x: Tensor) -> Tensor:
        if not self.noise:
            y = self.activation(x)
        elif isinstance(self.activation, Activation):
            y = self._stochastic(x, self.activation)
        else:
            y = self.activation(self._stochastic(x, Activation("identity")))
        return x.copy_(y) if self.inplace else y

    def _stochastic(self, x: Tensor, activation: Activation) -> Tensor:
        update = self.training and self.adaptive and not self.sigma_frozen
        if not update and self.adaptive and not (torch.compiler.is_compiling() or transformed()):
            self._notice_if_uncalibrated()
        fixed = self.fixed_seed is not None
        seed = functional.draw_seed(x.device) if self.fixed_seed is None else self.fixed_seed
        sigma, gamma, again = self.sigma, self.gamma, update and recomputing()
        if again:
            sigma, gamma = self.passes.sigma_and_gamma(seed, fixed, sigma, gamma) or (self.sigma_before, gamma)
        operation = Operation(activation, self.channel_dim, shared=fixed, donated=self.donated)
        y, moments, scale = functional.perform(
            operation, x.clone() if self.inplace else x, sigma, gamma, seed, statistics=update
        )
        if update and not again:
            self.passes.note(seed, scale, fixed)
            gather_moments(moments, self._move_sigma)
        return y

    def _move_sigma(self, moments: Tensor) -> None:
        apply_update(self.sigma, self.sigma_before, self.num_batches_tracked, moments, self.alpha)

    def _notice_if_uncalibrated(self) -> None:
        # Reading a buffer would synchronise a GPU; this happens until σ is first seen to be filled, and never again.
        if not self.notice.given and self.num_batches_tracked == 0 and self.gamma > 0:
            self.notice.uncalibrated()
        else:
            self.notice.given = True

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> StochasticActivation:
        """`.to`, `.half`, `.cuda`: move the buffers, but keep their dtype."""
        kept = {name: buffer for name, buffer in self._buffers.items() if buffer is not None}
        super()._apply(fn, recurse)
        for name, buffer in kept.items():
            moved = cast(Tensor, self._buffers[name])
            if moved.dtype != buffer.dtype:
                self._buffers[name] = buffer.to(moved.device)
        return self

    def _load_from_state_dict(
        self,
        state_dict: dict[str, Any],
        prefix: str,
        local_metadata: dict[str, Any],
        strict: bool,
        missing_keys: list[str],
        unexpected_keys: list[str],
        error_msgs: list[str],
    ) -> None:
        """A teacher's state has no σ, γ or count: then they keep their values, also under `strict`."""
        own = [prefix + name for name in ("sigma", "gamma", "num_batches_tracked")]
        if not any(key in state_dict for key in own):
            state_dict = {**state_dict, **{key: getattr(self, key.removeprefix(prefix)) for key in own}}
        super()._load_from_state_dict(
            state_dict, prefix, local_metadata, strict, missing_keys, unexpected_keys, error_msgs
        )

    def __prepare_scriptable__(self) -> nn.Module:
        """What `torch.jit.script` asks a module, or any that holds it, before it compiles."""
        raise ScriptedModelError(
            f"a {type(self).__name__} cannot be scripted: TorchScript does not know its operation. Use torch.compile "
            "or torch.export, which do, or script what stocnoise.revert(student) gives, the model without noise"
        )

    def extra_repr(self) -> str:
        activation = "" if isinstance(self.activation, nn.Module) else f"activation={self.activation}, "
        settings = f"alpha={self.alpha:g}, gamma={self.gamma.item():g}, channel_dim={self.channel_dim}"
        return f"{self.num_channels}, {activation}{settings}"


class StocEMA(StochasticActivation):
    """The method of the paper for any activation; a subclass is named for each activation of the fused operation.

    Example:
        >>> layer = stocnoise.StocEMA(8, activation=nn.ELU(), gamma=0.05)
        >>> layer(torch.randn(4, 8, 5, 5)).shape
        torch.Size([4, 8, 5, 5])
    """

    @classmethod
    def for_activation(cls, activation: Function) -> type[StochasticActivation]:
        if not isinstance(activation, Activation):
            return StocEMA
        if cls.default is not None and cls.default.name == activation.name:
            return cls
        return _NAMED[activation.name]


class StocReLUEMA(StocEMA):
    """max(0, x + noise); see `StochasticActivation`.

    Example:
        >>> stocnoise.StocReLUEMA(8)(torch.randn(4, 8, 5, 5)).min()
        tensor(0.)
    """

    default = Activation("relu")


class StocReLU6EMA(StocEMA):
    """min(max(0, x + noise), 6); see `StochasticActivation`.

    Example:
        >>> y = stocnoise.StocReLU6EMA(8)(torch.randn(4, 8, 5, 5))
    """

    default = Activation("relu6")


class StocLeakyReLUEMA(StocEMA):
    """LeakyReLU of x + noise; another slope by `activation=Activation("leaky_relu", slope)`.

    Example:
        >>> y = stocnoise.StocLeakyReLUEMA(8)(torch.randn(4, 8, 5, 5))
    """

    default = Activation("leaky_relu")


class StocGELUEMA(StocEMA):
    """(x + noise) · Φ(x + noise); see `StochasticActivation`.

    Example:
        >>> y = stocnoise.StocGELUEMA(8)(torch.randn(4, 8, 5, 5))
    """

    default = Activation("gelu")


class StocGELUTanhEMA(StocEMA):
    """GELU in its tanh approximation; see `StochasticActivation`.

    Example:
        >>> y = stocnoise.StocGELUTanhEMA(8)(torch.randn(4, 8, 5, 5))
    """

    default = Activation("gelu_tanh")


class StocSiLUEMA(StocEMA):
    """SiLU (swish) of x + noise; see `StochasticActivation`.

    Example:
        >>> y = stocnoise.StocSiLUEMA(8)(torch.randn(4, 8, 5, 5))
    """

    default = Activation("silu")


class StocHardswishEMA(StocEMA):
    """Hardswish of x + noise; see `StochasticActivation`.

    Example:
        >>> y = stocnoise.StocHardswishEMA(8)(torch.randn(4, 8, 5, 5))
    """

    default = Activation("hardswish")


_NAMED: dict[str, type[StochasticActivation]] = {
    named.default.name: named
    for named in (
        StocReLUEMA,
        StocReLU6EMA,
        StocLeakyReLUEMA,
        StocGELUEMA,
        StocGELUTanhEMA,
        StocSiLUEMA,
        StocHardswishEMA,
    )
    if named.default is not None
}
_NAMED["identity"] = StocEMA

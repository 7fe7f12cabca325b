"""Batch norms over the samples of all processes, on any device.

`torch.nn.SyncBatchNorm` runs on GPUs only and is no `BatchNorm2d`, which frozen norms are told apart by.
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from protoocc.ranks import Ranks
from schemas.errors import ConfigError

_BatchNorm = nn.modules.batchnorm._BatchNorm


class _JointNorm(torch.autograd.Function):
    """(x - mean) / sqrt(var + eps) * weight + bias, mean and biased variance over the batches of all processes.

    Backward, with x' the normalised values, g the gradient of the output and <.> the mean over the joint batch:
    dx = weight / sqrt(var + eps) * (g - <g> - x' <g x'>). Gradients of weight and bias stay those of this process,
    because the trainer averages the gradients of all parameters.
    """

    @staticmethod
    def forward(
        ctx: Any, values: Tensor, weight: Tensor, bias: Tensor, eps: float
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        ranks, axes = Ranks.current(), _axes(values)
        precise = values.to(torch.promote_types(values.dtype, torch.float32))
        sums = torch.cat([precise.sum(axes), precise.new_tensor([precise.numel() / precise.shape[1]])])
        sums = ranks.sum(sums)
        count = sums[-1]
        mean = sums[:-1] / count
        centred = precise - _along(mean, values)
        variance = ranks.sum(centred.square().sum(axes)) / count
        scale = (variance + eps).rsqrt()
        normalised = centred * _along(scale, values)
        ctx.save_for_backward(normalised, scale, weight, count)
        ctx.mark_non_differentiable(mean, variance, count)
        output = normalised * _along(weight, values) + _along(bias, values)
        return output.to(values.dtype), mean, variance, count

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        normalised, scale, weight, count = ctx.saved_tensors
        gradient = gradients[0].to(normalised.dtype)
        axes = _axes(normalised)
        own = torch.stack([gradient.sum(axes), (gradient * normalised).sum(axes)])
        means = Ranks.current().sum(own.clone()) / count
        rest = gradient - _along(means[0], normalised) - normalised * _along(means[1], normalised)
        return (rest * _along(weight * scale, normalised)).to(gradients[0].dtype), own[1], own[0], None


class _Joint(_BatchNorm):
    """A batch norm that keeps its parameters, buffers and names, and looks at all processes while it trains."""

    def forward(self, input: Float[Tensor, "n c *any"]) -> Float[Tensor, "n c *any"]:
        """As `torch.nn.BatchNorm2d`; outside training each process uses the stored statistics."""
        mean, variance, batches = self.running_mean, self.running_var, self.num_batches_tracked
        if not self.training or mean is None or variance is None or batches is None or self.momentum is None:
            return super().forward(input)
        output, joint_mean, joint_variance, count = _JointNorm.apply(input, self.weight, self.bias, self.eps)
        with torch.no_grad():
            unbiased = joint_variance * (count / (count - 1).clamp_min(1))
            mean.lerp_(joint_mean.to(mean.dtype), self.momentum)
            variance.lerp_(unbiased.to(mean.dtype), self.momentum)
            batches.add_(1)
        joint: Tensor = output
        return joint


class JointBatchNorm1d(_Joint, nn.BatchNorm1d):
    """`torch.nn.BatchNorm1d` over all processes."""


class JointBatchNorm2d(_Joint, nn.BatchNorm2d):
    """`torch.nn.BatchNorm2d` over all processes."""


class JointBatchNorm3d(_Joint, nn.BatchNorm3d):
    """`torch.nn.BatchNorm3d` over all processes."""


_JOINT: dict[type[nn.Module], type[_Joint]] = {
    nn.BatchNorm1d: JointBatchNorm1d,
    nn.BatchNorm2d: JointBatchNorm2d,
    nn.BatchNorm3d: JointBatchNorm3d,
}


def join_norms(model: nn.Module) -> None:
    """Replaces every batch norm inside a network by the one that sees all processes; names and values stay.

    Raises:
        ConfigError: a norm without weights, stored statistics or momentum, or of another kind.
    """
    for path, module in list(model.named_modules()):
        for name, child in module.named_children():
            if not isinstance(child, _BatchNorm):
                continue
            joint = _JOINT.get(type(child))
            if joint is None or child.weight is None or child.running_mean is None or child.momentum is None:
                raise ConfigError(
                    f"{f'{path}.{name}'.lstrip('.')} is {child}: several processes can share torch.nn.BatchNorm1d, 2d "
                    "and 3d with weights, running statistics and momentum; train on one process or change it"
                )
            setattr(module, name, _joined(child, joint))


def _joined(norm: _BatchNorm, kind: type[_Joint]) -> _Joint:
    joint = kind(
        norm.num_features,
        eps=norm.eps,
        momentum=norm.momentum,
        affine=norm.affine,
        track_running_stats=norm.track_running_stats,
    )
    joint.train(norm.training)
    joint._parameters, joint._buffers = norm._parameters, norm._buffers
    return joint


def _axes(values: Tensor) -> list[int]:
    return [axis for axis in range(values.ndim) if axis != 1]


def _along(channel: Tensor, like: Tensor) -> Tensor:
    """One value per channel, shaped to meet (n, c, ...)."""
    return channel.view(1, -1, *[1] * (like.ndim - 2))

"""DeepLab's TensorFlow releases, reimplemented from research/deeplab of github.com/tensorflow/models by variable names.

`Ops` are the few operations that the network consists of, in torch, with TensorFlow's rules of padding and resizing written
out. Each variable gets random values when it is first used.
"""

import numpy as np
import torch
import torch.nn.functional as F


class Ops:
    """TensorFlow's operations on (N, D, H, W)."""

    def conv(self, x, kernel, stride=1, rate=1, depthwise=False, same=True):
        """`kernel` (H, W, in, out), or (H, W, in, 1); SAME padding, or explicit padding that does not look at the size."""
        weight = torch.from_numpy(kernel).to(x.dtype).permute((2, 3, 0, 1) if depthwise else (3, 2, 0, 1))
        pads = []
        for size, side in zip(x.shape[:1:-1], kernel.shape[1::-1], strict=True):
            reach = rate * (side - 1)
            total = max((-(-size // stride) - 1) * stride + reach + 1 - size, 0) if same else reach
            pads += [total // 2, total - total // 2]
        return F.conv2d(F.pad(x, pads), weight, None, stride, 0, rate, x.shape[1] if depthwise else 1)

    def norm(self, x, gamma, beta, mean, variance, epsilon):
        gamma, beta, mean, variance = (
            torch.from_numpy(v).to(x.dtype).view(1, -1, 1, 1) for v in (gamma, beta, mean, variance)
        )
        return gamma * (x - mean) / torch.sqrt(variance + epsilon) + beta

    def relu(self, x):
        return x.clamp(min=0)

    def relu6(self, x):
        return x.clamp(0, 6)

    def concat(self, maps):
        return torch.cat(maps, 1)

    def mean(self, x):
        return x.mean((2, 3), keepdim=True)

    def size(self, x):
        return tuple(x.shape[2:])

    def resize(self, x, size):
        """Bilinear with aligned corners."""
        for dim, out in ((2, size[0]), (3, size[1])):
            at = torch.arange(out, dtype=x.dtype) * (x.shape[dim] - 1) / max(out - 1, 1)
            low = at.floor().long()
            share = (at - low).view(-1, 1) if dim == 2 else at - low
            high = (low + 1).clamp(max=x.shape[dim] - 1)
            x = x.index_select(dim, low) * (1 - share) + x.index_select(dim, high) * share
        return x


class Released:
    """One of the networks; `variables` holds what it has used."""

    def __init__(self, ops, seed=0):
        self.ops, self.variables, self.generator = ops, {}, np.random.default_rng(seed)

    def variable(self, name, shape):
        if name not in self.variables:
            draw = self.generator
            kinds = {
                "gamma": (0.8, 1.2),
                "beta": (-0.1, 0.3),
                "moving_mean": (-0.2, 0.2),
                "moving_variance": (0.002, 1.5),
            }
            leaf = name.rpartition("/")[2]
            if leaf in kinds:  # some variances so small that an epsilon shows
                value = draw.uniform(*kinds[leaf], shape)
            elif leaf == "biases":
                value = draw.normal(0, 0.1, shape)
            else:
                fan_in = shape[0] * shape[1] * (1 if leaf == "depthwise_weights" else shape[2])
                value = draw.normal(0, (1 / fan_in) ** 0.5, shape)
            self.variables[name] = value.astype(np.float32)
        return self.variables[name]

    def norm(self, x, name, channels, epsilon):
        leaves = ("gamma", "beta", "moving_mean", "moving_variance")
        return self.ops.norm(x, *(self.variable(f"{name}/BatchNorm/{leaf}", (channels,)) for leaf in leaves), epsilon)

    def conv(self, x, name, inside, out, kernel=1, stride=1, epsilon=1e-5, same=True, rate=1):
        weights = self.variable(f"{name}/weights", (kernel, kernel, inside, out))
        return self.norm(self.ops.conv(x, weights, stride, rate, same=same), name, out, epsilon)

    def depthwise(self, x, name, inside, stride=1, rate=1, epsilon=1e-5, same=True):
        weights = self.variable(f"{name}/depthwise_weights", (3, 3, inside, 1))
        return self.norm(self.ops.conv(x, weights, stride, rate, depthwise=True, same=same), name, inside, epsilon)

    def split_separable(self, x, name, inside, out, rate=1):
        x = self.ops.relu(self.depthwise(x, f"{name}_depthwise", inside, rate=rate))
        return self.ops.relu(self.conv(x, f"{name}_pointwise", inside, out))

    def mobilenet_v2(self, x, output_stride):
        relu6 = self.ops.relu6
        x = relu6(self.conv(x, "MobilenetV2/Conv", 3, 32, 3, 2, 1e-3))
        width, number, reached, rate = 32, 0, 2, 1
        for expansion, out, repeats, first in (
            (1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1),
        ):  # fmt: skip
            for index in range(repeats):
                name = f"MobilenetV2/expanded_conv{f'_{number}' if number else ''}"
                wanted = first if index == 0 else 1
                stride, used = (1, rate) if reached == output_stride else (wanted, 1)
                if reached == output_stride:
                    rate *= wanted
                reached *= stride
                y, middle = x, width * expansion
                if expansion > 1:
                    y = relu6(self.conv(y, f"{name}/expand", width, middle, epsilon=1e-3))
                y = relu6(self.depthwise(y, f"{name}/depthwise", middle, stride, used, 1e-3))
                y = self.conv(y, f"{name}/project", middle, out, epsilon=1e-3)
                x = x + y if wanted == 1 and width == out else y
                width, number = out, number + 1
        return x, 320, None

    def xception_65(self, x, output_stride):
        relu = self.ops.relu
        x = relu(self.conv(x, "xception_65/entry_flow/conv1_1", 3, 32, 3, 2, 1e-3, same=False))
        x = relu(self.conv(x, "xception_65/entry_flow/conv1_2", 32, 64, 3, 1, 1e-3))
        width, reached, rate, fine = 64, 2, 1, None
        for flow, block, units, depths, wanted, skip in (
            ("entry_flow", 1, 1, (128,) * 3, 2, "conv"), ("entry_flow", 2, 1, (256,) * 3, 2, "conv"),
            ("entry_flow", 3, 1, (728,) * 3, 2, "conv"), ("middle_flow", 1, 16, (728,) * 3, 1, "sum"),
            ("exit_flow", 1, 1, (728, 1024, 1024), 2, "conv"), ("exit_flow", 2, 1, (1536, 1536, 2048), 1, "none"),
        ):  # fmt: skip
            for unit in range(1, units + 1):
                name = f"xception_65/{flow}/block{block}/unit_{unit}/xception_module"
                stride, used = (1, rate) if reached == output_stride else (wanted, 1)
                if reached == output_stride:
                    rate *= wanted
                reached *= stride
                y, inside = x, width
                for number, out in enumerate(depths, start=1):
                    step, inner = stride if number == 3 else 1, skip == "none"
                    y = y if inner else relu(y)
                    separable = f"{name}/separable_conv{number}"
                    y = self.depthwise(y, f"{separable}_depthwise", inside, step, used, 1e-3, same=step == 1)
                    y = self.conv(relu(y) if inner else y, f"{separable}_pointwise", inside, out, epsilon=1e-3)
                    y, inside = relu(y) if inner else y, out
                    fine = y if (flow, block, number) == ("entry_flow", 2, 2) else fine
                if skip == "conv":
                    y = y + self.conv(x, f"{name}/shortcut", width, inside, 1, stride, 1e-3)
                x, width = x + y if skip == "sum" else y, inside
        return x, width, fine

    def logits(self, x, backbone, output_stride, rates, classes):
        """x of levels / 127.5 - 1 -> logits of its size. Rates are pixels of the last map."""
        ops, whole = self.ops, self.ops.size(x)
        x, width, fine = getattr(self, backbone)(x, output_stride)
        pooled = ops.relu(self.conv(ops.mean(x), "image_pooling", width, 256))
        branches = [ops.resize(pooled, ops.size(x)), ops.relu(self.conv(x, "aspp0", width, 256))]
        branches += [self.split_separable(x, f"aspp{i}", width, 256, rate) for i, rate in enumerate(rates, start=1)]
        x = ops.relu(self.conv(ops.concat(branches), "concat_projection", 256 * len(branches), 256))
        if fine is not None:
            fine = ops.relu(self.conv(fine, "decoder/feature_projection0", 256, 48))
            x = ops.concat([ops.resize(x, ops.size(fine)), fine])
            x = self.split_separable(x, "decoder/decoder_conv0", 304, 256)
            x = self.split_separable(x, "decoder/decoder_conv1", 256, 256)
        x = ops.conv(x, self.variable("logits/semantic/weights", (1, 1, 256, classes)))
        bias = self.variable("logits/semantic/biases", (classes,))
        return ops.resize(self.biased(x, bias), whole)

    def biased(self, x, bias):
        return self.ops.norm(x, np.ones_like(bias), bias, np.zeros_like(bias), np.ones_like(bias), 0.0)

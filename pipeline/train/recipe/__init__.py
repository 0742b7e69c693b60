"""The training recipe: losses, class weights, parameter groups, learning rate, averaged weights."""

from pipeline.train.recipe.class_weights import class_weights
from pipeline.train.recipe.ema import Ema
from pipeline.train.recipe.losses import Loss
from pipeline.train.recipe.optimizer import build_optimizer, held_still, set_norm
from pipeline.train.recipe.schedule import rate, set_lr

__all__ = ["Ema", "Loss", "build_optimizer", "class_weights", "held_still", "rate", "set_lr", "set_norm"]

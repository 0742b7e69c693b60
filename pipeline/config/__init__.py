"""The config schema. One YAML file describes a whole run, without inheritance, includes or environment variables."""

from pipeline.config.base import EngineName, PredictPrecision, Section, machine_keys, pace_keys, run_keys
from pipeline.config.card import ReleaseCard
from pipeline.config.class_map import ClassMap, read_class_map, same_classes
from pipeline.config.corpus import CorpusConfig
from pipeline.config.image import ImageConfig
from pipeline.config.label_space import LabelSpaceConfig, read_label_space
from pipeline.config.loading import canonical, differences, load, overridden, parse, parse_model
from pipeline.config.models import ModelConfig, UpsamplingName
from pipeline.config.recipe import (
    AugmentConfig,
    CrossEntropyConfig,
    DiceConfig,
    FocalConfig,
    LossConfig,
    LossTerm,
    LovaszConfig,
    OhemConfig,
    OptimizerConfig,
)
from pipeline.config.segment import CrfConfig, MetricsConfig, PredictConfig, RegionsConfig, SegmentConfig
from pipeline.config.train import FIGURES, TrainConfig, open_tree, stage_configs
from pipeline.config.tune import AxisConfig, TuneConfig, with_values

__all__ = [
    "FIGURES",
    "AugmentConfig",
    "AxisConfig",
    "ClassMap",
    "CorpusConfig",
    "CrfConfig",
    "EngineName",
    "PredictPrecision",
    "CrossEntropyConfig",
    "DiceConfig",
    "FocalConfig",
    "LabelSpaceConfig",
    "ImageConfig",
    "LossConfig",
    "LossTerm",
    "LovaszConfig",
    "MetricsConfig",
    "ModelConfig",
    "OhemConfig",
    "OptimizerConfig",
    "PredictConfig",
    "RegionsConfig",
    "ReleaseCard",
    "Section",
    "SegmentConfig",
    "TrainConfig",
    "TuneConfig",
    "UpsamplingName",
    "canonical",
    "differences",
    "load",
    "overridden",
    "machine_keys",
    "pace_keys",
    "open_tree",
    "parse",
    "read_class_map",
    "same_classes",
    "read_label_space",
    "run_keys",
    "stage_configs",
    "with_values",
    "parse_model",
]

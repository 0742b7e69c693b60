"""The whole config schema: one YAML file is one run, complete, without inheritance, includes or environment look-ups."""

from pipeline.config.corpus import CorpusConfig
from pipeline.config.networks import ModelConfig, UpsamplingName
from pipeline.config.section import Section
from pipeline.config.segment import CrfConfig, MetricsConfig, PredictConfig, SegmentConfig
from pipeline.config.text import canonical, differences, load, parse, parse_model
from pipeline.config.train import AugmentConfig, OptimizerConfig, TrainConfig

__all__ = [
    "AugmentConfig",
    "CorpusConfig",
    "CrfConfig",
    "MetricsConfig",
    "ModelConfig",
    "OptimizerConfig",
    "PredictConfig",
    "Section",
    "SegmentConfig",
    "TrainConfig",
    "UpsamplingName",
    "canonical",
    "differences",
    "load",
    "parse",
    "parse_model",
]

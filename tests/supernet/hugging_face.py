"""Hugging Face models as model functions: a config and a class, as they are."""

from __future__ import annotations

from transformers import BertConfig, BertForSequenceClassification, GPT2Config, GPT2LMHeadModel


def bert(**config):
    return BertForSequenceClassification(BertConfig(**config))


def gpt2(**config):
    return GPT2LMHeadModel(GPT2Config(**config))

"""A task for `inspect eval`: problems from a file, answered with one of two numbers."""

from inspect_ai import Task, task
from inspect_ai.dataset import json_dataset
from inspect_ai.model import GenerateConfig, ResponseSchema
from inspect_ai.scorer import exact
from inspect_ai.util import JSONSchema


@task
def arithmetic(problems: str) -> Task:
    schema = ResponseSchema(name="answer", json_schema=JSONSchema(enum=[3, 5]))
    config = GenerateConfig(reasoning_effort="low", response_schema=schema)
    return Task(dataset=json_dataset(problems), scorer=exact(), config=config)

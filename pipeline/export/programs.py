"""The short programs of a model card, for each kind of task; a test runs them as they stand."""

from __future__ import annotations

from dataclasses import dataclass

from schemas.core.kinds import (
    Classification,
    Embedding,
    MultiLabel,
    MultipleChoice,
    QuestionAnswering,
    Regression,
    TaskKind,
    TokenClassification,
)

_PAIR = '{"text": "Is it late?", "text_pair": "It is late."}'
_TEXT = '"A short text."'


@dataclass(frozen=True)
class Program:
    """A program that uses an exported student."""

    needs: str
    """Packages to install."""
    code: str
    """Python, run in the folder that contains the export."""


def transformers_program(
    kind: TaskKind | None, name: str, *, is_pair: bool, example: dict[str, str] | None = None
) -> Program:
    """Return a program that answers with transformers, or with sentence-transformers for vectors.

    Args:
        kind: the task's kind; None for a student without a head.
        name: the export's folder.
        is_pair: True where a sequence holds two texts.
        example: `text`, and `text_pair` for pairs, to answer instead of made-up ones, by kinds with one answer a row.
    """
    text = (_PAIR if is_pair else _TEXT) if example is None else repr(example if is_pair else example["text"])
    match kind:
        case Classification():
            return _pipeline("text-classification", name, text)
        case Regression():
            return _pipeline("text-classification", name, text, ', function_to_apply="none"')
        case MultiLabel():
            return _pipeline("text-classification", name, text, ', top_k=None, function_to_apply="sigmoid"')
        case TokenClassification():
            code = f"""
                from transformers import pipeline
                tag = pipeline("token-classification", model="{name}", aggregation_strategy="first")
                print(tag("Ada Lovelace was born in London."))
            """
        case QuestionAnswering():
            return _span_program(name)
        case MultipleChoice():
            return _choice_program(name)
        case Embedding():
            code = f"""
                from sentence_transformers import SentenceTransformer
                model = SentenceTransformer("{name}")
                vectors = model.encode(["A short text.", "A brief text."])
                print(model.similarity(vectors, vectors))
            """
            return Program("sentence-transformers", _dedented(code))
        case _:
            code = f"""
                from transformers import AutoModel, AutoTokenizer
                tokenizer, model = AutoTokenizer.from_pretrained("{name}"), AutoModel.from_pretrained("{name}")
                inputs = tokenizer([{_TEXT}], truncation=True, padding=True, return_tensors="pt")
                print(model(**inputs).last_hidden_state.shape)
            """
    return Program("transformers torch", _dedented(code))


def onnx_program(name: str, file: str, *, inputs: tuple[str, ...], output: str, is_pair: bool, best: bool) -> Program:
    """Return a program that needs neither torch nor transformers.

    Args:
        name: the export's folder.
        file: the model's path in it.
        inputs: names of the file's inputs.
        output: name of its first output.
        is_pair: True where a sequence holds two texts.
        best: True to print the number of the best output, False for the outputs themselves.
    """
    texts = '[("Is it late?", "It is late.")]' if is_pair else '["A short text.", "Another one."]'
    fields = {"input_ids": "ids", "attention_mask": "attention_mask", "token_type_ids": "type_ids"}
    feed = ", ".join(f'"{name}": [row.{fields[name]} for row in rows]' for name in inputs)
    code = f"""
        import numpy as np, onnxruntime
        from tokenizers import Tokenizer
        tokenizer = Tokenizer.from_file("{name}/tokenizer.json")
        session = onnxruntime.InferenceSession("{name}/{file}")
        rows = tokenizer.encode_batch({texts})
        feed = {{{feed}}}
        outputs = session.run(["{output}"], {{key: np.array(rows, np.int64) for key, rows in feed.items()}})[0]
        print(outputs{".argmax(-1)" if best else ""})
    """
    return Program("onnxruntime tokenizers numpy", _dedented(code))


def _pipeline(task: str, name: str, text: str, options: str = "") -> Program:
    code = f"""
        from transformers import pipeline
        answer = pipeline("{task}", model="{name}", truncation=True{options})
        print(answer({text}))
    """
    return Program("transformers torch", _dedented(code))


def _span_program(name: str) -> Program:
    code = f"""
        from transformers import AutoModelForQuestionAnswering, AutoTokenizer
        tokenizer = AutoTokenizer.from_pretrained("{name}")
        model = AutoModelForQuestionAnswering.from_pretrained("{name}")
        inputs = tokenizer("Where was she born?", "She was born in London.", truncation=True, return_tensors="pt")
        answer = model(**inputs)
        start, end = answer.start_logits.argmax(), answer.end_logits.argmax()
        print(tokenizer.decode(inputs["input_ids"][0, start : end + 1]))
    """
    return Program("transformers torch", _dedented(code))


def _choice_program(name: str) -> Program:
    code = f"""
        from transformers import AutoModelForMultipleChoice, AutoTokenizer
        tokenizer = AutoTokenizer.from_pretrained("{name}")
        model = AutoModelForMultipleChoice.from_pretrained("{name}")
        question, choices = "It rains.", ["The street is dry.", "The street is wet."]
        inputs = tokenizer([question] * 2, choices, truncation=True, padding=True, return_tensors="pt")
        print(choices[model(**{{name: value[None] for name, value in inputs.items()}}).logits.argmax()])
    """
    return Program("transformers torch", _dedented(code))


def _dedented(code: str) -> str:
    import textwrap

    return textwrap.dedent(code).strip()

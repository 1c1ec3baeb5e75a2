"""Everything a stage needs from outside (`protocols`), and implementations without Prefect and MLflow (`plain`).

A complete training run; `model/` is an encoder saved by transformers, `corpus.txt` holds one text per line:

```python
from pathlib import Path
from schemas.recipe.stage import StageConfig
from stages.ports.plain import plain_ports
from stages.run import run_stage

teacher = {"kind": "folder", "path": "model"}
student = {"shape": {"num_layers": 2, "hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 32}}
corpus = {"kind": "files", "paths": ["corpus.txt"]}
data = {"kind": "general_corpus", "sources": [corpus], "max_length": 32, "held_out_rows": 8}
config = StageConfig.model_validate({
    "name": "general", "pretrained": teacher, "teacher": {"kind": "pretrained", "model": teacher}, "student": student,
    "data": data, "objective": {"kind": "latent"}, "training": {"duration": "20 steps", "batch": "8 sequences"}})
result = run_stage(config, None, plain_ports(Path("runs")))
print(result.checkpoint.path, result.metrics["eval/loss"])
```

The next stage takes `result.checkpoint` as its parent; `{"kind": "task", ...}` as data and a task objective make it
task-specific. `AutoModel.from_pretrained(f"{result.checkpoint.path}/model")` loads the student.
"""

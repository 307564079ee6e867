"""Write a folder as `Dataset.save_to_disk` of Hugging Face's `datasets` does, without that library."""

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

IMAGE = {"_type": "Image"}
CLASSES = {"names": ["ant", "bee", "cat"], "_type": "ClassLabel"}


def value(dtype: str) -> dict[str, str]:
    """Return the feature of a column of plain values."""
    return {"dtype": dtype, "_type": "Value"}


def encoded_picture(seed: int) -> bytes:
    """Return a PNG of 16 x 16 random colours."""
    buffer = io.BytesIO()
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (16, 16, 3), np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


def image_cell(seed: int) -> dict[str, Any]:
    """Return what a row holds in a column of pictures."""
    return {"bytes": encoded_picture(seed), "path": f"{seed}.png"}


def save(folder: Path, features: dict[str, Any], columns: dict[str, list[Any]], num_shards: int = 1) -> Path:
    """Write the columns as Arrow files of several record batches, with the features in their schema."""
    pyarrow = pytest.importorskip("pyarrow", reason="reading saved data sets needs the extra [huggingface]")
    folder.mkdir(parents=True)
    whole = pyarrow.table(columns)
    schema = whole.schema.with_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    names = [f"data-{shard:05}-of-{num_shards:05}.arrow" for shard in range(num_shards)]
    for name, rows in zip(names, np.array_split(np.arange(len(whole)), num_shards), strict=True):
        with pyarrow.OSFile(str(folder / name), "wb") as file, pyarrow.ipc.new_stream(file, schema) as stream:
            stream.write_table(whole.slice(rows[0], len(rows)).cast(schema), max_chunksize=2)
    state = {"_data_files": [{"filename": name} for name in names], "_fingerprint": "0", "_split": None}
    (folder / "state.json").write_text(json.dumps(state))
    (folder / "dataset_info.json").write_text(json.dumps({"features": features}))
    return folder

"""`croissant.json`: the set of shards described in Croissant JSON-LD, for programs that look for data.

Vocabulary: Croissant 1.0 of MLCommons. Files are named relative to the folder.
"""

from __future__ import annotations

import json
from typing import Any, Final

from schemas.shards import MASKS_MEMBER, META_MEMBER, OCCUPANCY_MEMBER, Manifest

CONTEXT: Final[dict[str, Any]] = {
    "@language": "en",
    "@vocab": "https://schema.org/",
    "sc": "https://schema.org/",
    "cr": "http://mlcommons.org/croissant/",
    "rai": "http://mlcommons.org/croissant/RAI/",
    "dct": "http://purl.org/dc/terms/",
    "citeAs": "cr:citeAs",
    "column": "cr:column",
    "conformsTo": "dct:conformsTo",
    "data": {"@id": "cr:data", "@type": "@json"},
    "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
    "examples": {"@id": "cr:examples", "@type": "@json"},
    "extract": "cr:extract",
    "field": "cr:field",
    "fileObject": "cr:fileObject",
    "fileProperty": "cr:fileProperty",
    "fileSet": "cr:fileSet",
    "format": "cr:format",
    "includes": "cr:includes",
    "isLiveDataset": "cr:isLiveDataset",
    "jsonPath": "cr:jsonPath",
    "key": "cr:key",
    "md5": "cr:md5",
    "parentField": "cr:parentField",
    "path": "cr:path",
    "recordSet": "cr:recordSet",
    "references": "cr:references",
    "regex": "cr:regex",
    "repeated": "cr:repeated",
    "replace": "cr:replace",
    "separator": "cr:separator",
    "source": "cr:source",
    "subField": "cr:subField",
    "transform": "cr:transform",
}
"""Terms as the specification prints them."""
IMAGES: Final = "images"
"""The record set of all images: key of the sample, member and content."""


def croissant(manifest: Manifest) -> str:
    """The file's text; the same shards give the same bytes."""
    dataset = manifest.dataset
    tars = [{"@id": shard.url} for shard in manifest.shardlist]
    described = {
        "@context": CONTEXT,
        "@type": "sc:Dataset",
        "conformsTo": "http://mlcommons.org/croissant/1.0",
        "name": manifest.name,
        "description": (
            f"Occupancy shards: {len(dataset.cameras)} camera images of a keyframe{_joined(manifest)}, labels of "
            f"{' x '.join(map(str, dataset.grid.shape))} voxels and pseudo masks, as WebDataset tars."
        ),
        "license": manifest.licence or "unknown",
        "version": f"{manifest.shard_format}.0.0",
        **({} if manifest.attribution is None else {"creditText": manifest.attribution}),
        "distribution": [
            *(
                {
                    "@type": "cr:FileObject",
                    "@id": shard.url,
                    "name": shard.url,
                    "contentUrl": shard.url,
                    "contentSize": f"{shard.filesize} B",
                    "encodingFormat": "application/x-tar",
                    "sha256": shard.sha256,
                }
                for shard in manifest.shardlist
            ),
            *(_file_set(name, pattern, kind, tars) for name, (pattern, kind) in _file_sets(manifest).items()),
        ],
        "recordSet": [_image_records()] if manifest.image_files is None else [],
    }
    return json.dumps(described, indent=1) + "\n"


def _file_sets(manifest: Manifest) -> dict[str, tuple[str, str]]:
    masks = {} if manifest.masks is None else {"masks": (f"*.{MASKS_MEMBER}", "image/png")}
    images = {"image-files": ("*.jpg", "image/jpeg")} if manifest.image_files is None else {}
    return {
        **images,
        **masks,
        "occupancy": (f"*.{OCCUPANCY_MEMBER}", "application/zip"),
        "metadata": (f"*.{META_MEMBER}", "application/json"),
    }


def _joined(manifest: Manifest) -> str:
    return "" if manifest.image_files is None else " (not held: to be joined with the raw data)"


def _file_set(name: str, pattern: str, kind: str, tars: list[dict[str, str]]) -> dict[str, Any]:
    return {
        "@type": "cr:FileSet",
        "@id": name,
        "name": name,
        "containedIn": tars,
        "encodingFormat": kind,
        "includes": pattern,
    }


def _image_records() -> dict[str, Any]:
    def field(name: str, kind: str, source: dict[str, Any]) -> dict[str, Any]:
        whole = {"fileSet": {"@id": "image-files"}, **source}
        path = f"{IMAGES}/{name}"
        return {"@type": "cr:Field", "@id": path, "name": name, "dataType": kind, "source": whole}

    name = {"extract": {"fileProperty": "filename"}}
    return {
        "@type": "cr:RecordSet",
        "@id": IMAGES,
        "name": IMAGES,
        "field": [
            field("sample", "sc:Text", {**name, "transform": {"regex": r"^([^.]+)\..*$"}}),
            field("camera", "sc:Text", {**name, "transform": {"regex": r"^[^.]+\.(.*)\.jpg$"}}),
            field("image", "sc:ImageObject", {"extract": {"fileProperty": "content"}}),
        ],
    }

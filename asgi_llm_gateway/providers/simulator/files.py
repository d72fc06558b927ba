"""The files API, in memory: upload, list, look at, read back, delete."""

from __future__ import annotations

from typing import Any

from .answer import Answer, Refusal, json_answer, plain
from .request import Request, missing


class FileShelf:
    """The files one simulator holds, oldest first."""

    def __init__(self) -> None:
        self._files: dict[str, tuple[dict[str, Any], bytes]] = {}
        self._uploads = 0

    def upload(self, request: Request) -> Answer:
        """POST /files"""
        uploads = request.files.get("file")
        if not uploads:
            raise missing("file")
        upload, purpose = uploads[0], request.text("purpose")
        # The same file may be uploaded twice and is two files then.
        self._uploads += 1
        entry = {
            "id": request.id("file-", self._uploads),
            "object": "file",
            "bytes": upload.size,
            "created_at": request.created,
            "expires_at": None,
            "filename": upload.filename,
            "purpose": purpose,
            "status": "processed",
            "status_details": None,
        }
        self._files[str(entry["id"])] = (entry, upload.content or b"")
        return json_answer(entry)

    def answer(self, method: str, file_id: str, tail: str) -> Answer:
        """GET /files, GET /files/{id}, GET /files/{id}/content and DELETE /files/{id}."""
        if not file_id:
            return self._list()
        if file_id not in self._files:
            raise Refusal(404, f"No such File object: {file_id}", param="id")
        if method == "DELETE":
            del self._files[file_id]
            return json_answer({"id": file_id, "object": "file", "deleted": True})
        entry, content = self._files[file_id]
        if tail == "content":
            return plain(content, b"application/octet-stream")
        return json_answer(entry)

    def _list(self) -> Answer:
        entries = [entry for entry, _ in reversed(self._files.values())]
        ids = [entry["id"] for entry in entries]
        return json_answer(
            {
                "object": "list",
                "data": entries,
                "first_id": ids[0] if ids else None,
                "last_id": ids[-1] if ids else None,
                "has_more": False,
            }
        )

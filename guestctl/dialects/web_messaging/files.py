"""Files that a guest uploads or downloads (web-messaging.md §5.6, §7.3).

Knows: the frames around a presigned URL, and the request to it. Must not know: local files.
"""

from __future__ import annotations

from collections.abc import Callable

from guestctl.core.model import Session
from guestctl.core.wire import Request, optional, required
from guestctl.dialects.features import FileTransfer
from guestctl.dialects.flows import Flow, FlowAnswer, Rejection, answered, frame_request, http_request
from guestctl.dialects.web_messaging.frames import AnswerTo, rejects, request_frame


class WebFiles(FileTransfer):
    def __init__(self, new_id: Callable[[], str]) -> None:
        self._new_id = new_id

    def upload(self, session: Session, name: str, mime: str, content: bytes) -> Flow[str]:
        frame = request_frame("onAttachment", session, self._new_id())
        proposed = self._new_id()
        frame.update(attachmentId=proposed, fileName=name, fileType=mime, fileSize=len(content), errorsAsJson=True)
        is_answer = AnswerTo(frame, FlowAnswer)
        # A GenerateUrlError may lack the tracingId; it then names the attachment (§6.6).
        presigned = yield from answered(frame_request(frame, lambda h: is_answer(h) or rejects(h, proposed), "upload"))
        assert isinstance(presigned, FlowAnswer)
        attachment_id = required(presigned.body, "attachmentId", str, "PresignedUrlResponse")
        headers = optional(presigned.body, "headers", dict, {}) or {}
        yield from http_request(
            Request(
                "PUT",
                required(presigned.body, "url", str, "PresignedUrlResponse"),
                "upload",
                headers={"Content-Type": mime, **{str(k): str(v) for k, v in headers.items()}},
                content=content,
            )
        )
        # The service scans the file and then reports the outcome without being asked.
        outcome = yield from answered(
            frame_request(
                None,
                lambda h: isinstance(h, (FlowAnswer, Rejection)) and h.reply_to == attachment_id,
                "upload",
            )
        )
        assert isinstance(outcome, FlowAnswer)
        return attachment_id

    def discard(self, session: Session, attachment_id: str) -> Flow[None]:
        frame = request_frame("deleteAttachment", session, self._new_id())
        frame["attachmentId"] = attachment_id
        yield from answered(frame_request(frame, AnswerTo(frame, FlowAnswer), "upload"))

    def download(self, session: Session, attachment_id: str) -> Flow[tuple[Request, str | None]]:
        frame = request_frame("getAttachment", session, self._new_id())
        frame["attachmentId"] = attachment_id
        answer = yield from answered(frame_request(frame, AnswerTo(frame, FlowAnswer), "download"))
        assert isinstance(answer, FlowAnswer)
        url = required(answer.body, "url", str, "PresignedUrlResponse")
        return Request("GET", url, "download", idempotent=True), optional(answer.body, "fileName", str)

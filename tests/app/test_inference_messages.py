"""Inference requests and answers as bytes: what they mean, and what is wrong with those that mean nothing."""

import base64
from typing import Any

import numpy as np
import orjson
import pytest

from app.errors import Kind, Problem
from app.inference.messages import Inference, Signature, Wanted, parse_inference, written
from app.inference.tensors import Datatype, Tensor
from app.negotiation import Limits

IMAGES = Tensor("images", Datatype.UINT8, (-1, 2, 3, 1))
FILES = Tensor("images", Datatype.BYTES, (-1,))
Z = Tensor("z", Datatype.FP32, (-1, 2))
MU = Tensor("mu", Datatype.FP32, (-1, 2))
ENCODE = Signature((IMAGES, FILES), (MU, Tensor("logvar", Datatype.FP32, (-1, 2))))
DECODE = Signature((Z,), (IMAGES,))
COUNT = Signature((Tensor("n", Datatype.INT64, (1,)),), (Tensor("seed", Datatype.UINT64, (1,)),))
LIMITS = Limits(body_bytes=1 << 20, images=100, pixels=100)
PIXELS = np.arange(12, dtype=np.uint8).reshape(2, 2, 3, 1)


def body(*inputs: dict[str, Any], raw: bytes = b"", **members: Any) -> tuple[bytes, str | None]:
    document = orjson.dumps({"inputs": inputs, **members})
    return document + raw, str(len(document)) if raw else None


def tensor(name: str, datatype: str, shape: list[int], **members: Any) -> dict[str, Any]:
    return {"name": name, "datatype": datatype, "shape": shape, **members}


def binary(name: str, datatype: str, shape: list[int], size: object) -> dict[str, Any]:
    return tensor(name, datatype, shape, parameters={"binary_data_size": size})


def parsed(content: bytes, header_length: str | None, signature: Signature) -> Inference:
    return parse_inference(content, header_length, signature, LIMITS)


def refused(sent: tuple[bytes, str | None], signature: Signature = ENCODE) -> Problem:
    with pytest.raises(Problem) as raised:
        parsed(*sent, signature)
    return raised.value


class TestRequest:
    @pytest.mark.parametrize("data", [PIXELS.ravel().tolist(), PIXELS.tolist()], ids=["flat", "nested"])
    def test_json_elements(self, data: list[Any]) -> None:
        inference = parsed(*body(tensor("images", "UINT8", [2, 2, 3, 1], data=data)), ENCODE)
        found = inference.inputs["images"]
        assert isinstance(found, np.ndarray)
        assert found.dtype == np.uint8
        np.testing.assert_array_equal(found, PIXELS)

    def test_raw_bytes_are_viewed_and_not_copied(self) -> None:
        sent = body(binary("images", "UINT8", [2, 2, 3, 1], 12), raw=PIXELS.tobytes())
        found = parsed(*sent, ENCODE).inputs["images"]
        assert isinstance(found, np.ndarray)
        np.testing.assert_array_equal(found, PIXELS)
        assert not found.flags.owndata

    def test_several_raw_tensors_lie_in_the_order_of_their_names(self) -> None:
        signature = Signature((Z, Tensor("n", Datatype.INT64, (1,))))
        raw = np.array([7], "<i8").tobytes() + np.array([[1, 2]], "<f4").tobytes()
        sent = body(binary("n", "INT64", [1], 8), binary("z", "FP32", [1, 2], 8), raw=raw)
        inputs = parsed(*sent, signature).inputs
        assert np.asarray(inputs["n"]).tolist() == [7]
        assert np.asarray(inputs["z"]).tolist() == [[1.0, 2.0]]

    def test_bytes_come_each_after_its_length(self) -> None:
        raw = b"\x02\0\0\0hi\0\0\0\0\x01\0\0\0!"
        sent = body(binary("images", "BYTES", [3], len(raw)), raw=raw)
        assert parsed(*sent, ENCODE).inputs["images"] == [b"hi", b"", b"!"]

    def test_bytes_are_base64_in_json(self) -> None:
        data = [base64.b64encode(b"\xff\x00").decode()]
        sent = body(tensor("images", "BYTES", [1], data=data))
        assert parsed(*sent, ENCODE).inputs["images"] == [b"\xff\x00"]

    def test_a_body_without_json_is_the_only_tensor(self) -> None:
        inference = parsed(PIXELS.tobytes(), "0", ENCODE)
        np.testing.assert_array_equal(np.asarray(inference.inputs["images"]), PIXELS)
        assert inference.outputs == [Wanted("mu", True), Wanted("logvar", True)]

    def test_a_body_without_json_is_the_only_element(self) -> None:
        signature = Signature((Tensor("payload", Datatype.BYTES, (1,)),))
        assert parsed(b"any bytes", "0", signature).inputs["payload"] == [b"any bytes"]

    def test_parameters_are_the_model_s_but_for_those_that_clients_set_themselves(self) -> None:
        data = tensor("n", "INT64", [1], data=[3])
        parameters = {"priority": 1, "sequence_id": 3, "triton_x": True, "timeout": 1500, "seed": 9}
        inference = parsed(*body(data, id="7", parameters=parameters), COUNT)
        assert inference.parameters == {"seed": 9}
        assert inference.timeout_seconds == 0.0015
        assert inference.id == "7"

    def test_no_timeout_is_none(self) -> None:
        data = tensor("n", "INT64", [1], data=[3])
        assert parsed(*body(data, parameters={"timeout": 0}), COUNT).timeout_seconds is None

    @pytest.mark.parametrize(
        ("members", "wanted"),
        [
            ({}, [Wanted("mu", False), Wanted("logvar", False)]),
            ({"outputs": []}, [Wanted("mu", False), Wanted("logvar", False)]),
            (
                {"parameters": {"binary_data_output": True}},
                [Wanted("mu", True), Wanted("logvar", True)],
            ),
            ({"outputs": [{"name": "logvar"}]}, [Wanted("logvar", False)]),
            ({"outputs": [{"name": "mu", "parameters": {"binary_data": True}}]}, [Wanted("mu", True)]),
            (
                {
                    "outputs": [{"name": "mu", "parameters": {"binary_data": False}}],
                    "parameters": {"binary_data_output": True},
                },
                [Wanted("mu", False)],
            ),
        ],
    )
    def test_outputs_are_those_asked_for(self, members: dict[str, Any], wanted: list[Wanted]) -> None:
        sent = body(tensor("images", "UINT8", [1, 2, 3, 1], data=[0] * 6), **members)
        assert parsed(*sent, ENCODE).outputs == wanted


IMAGE = tensor("images", "UINT8", [1, 2, 3, 1], data=[0] * 6)
N = {"name": "n", "datatype": "INT64", "shape": [1]}


class TestBadRequest:
    @pytest.mark.parametrize("length", ["-1", "x", "", "99999", "²", "1" * 5000, "0" * 20 + "1", "3"])
    def test_header_length(self, length: str) -> None:
        problem = refused((b"{}", length))
        assert problem.kind is Kind.MALFORMED
        assert "Inference-Header-Content-Length is" in problem.detail
        assert problem.detail.endswith("the body has 2 bytes")

    @pytest.mark.parametrize(
        ("sent", "kind", "words"),
        [
            ((b"{", None), Kind.MALFORMED, "the body is not JSON"),
            ((b'{"inputs":[]}xx', "15"), Kind.MALFORMED, "is not JSON"),
            ((b"[]", None), Kind.INVALID, "the request is []; expected an object"),
            ((b"{}", None), Kind.INVALID, "inputs is None; expected a list of tensors"),
            ((b'{"inputs":[1]}', None), Kind.INVALID, "inputs is [1]; expected a list of tensors"),
            (body(IMAGE, input=1), Kind.INVALID, "the request has input; its members are id, parameters"),
            (body(IMAGE, id=7), Kind.INVALID, "id is 7; expected a string"),
            (body(IMAGE, parameters=[]), Kind.INVALID, "the request: parameters is []; expected an object"),
            (body(IMAGE, parameters={"timeout": -1}), Kind.INVALID, "timeout is -1; expected whole micro"),
            (body(IMAGE, parameters={"timeout": 1.5}), Kind.INVALID, "timeout is 1.5; expected whole micro"),
            (body(), Kind.INVALID, "input images is missing"),
            (body(IMAGE, IMAGE), Kind.INVALID, "input images is not one of the model's, each once: images"),
            (body({**IMAGE, "name": "x"}), Kind.INVALID, "input x is not one of the model's"),
            (body({**IMAGE, "name": 3}), Kind.INVALID, "input 3 is not one of the model's"),
            (body({**IMAGE, "datatype": "FP32"}), Kind.INVALID, "images is FP32; expected UINT8 or BYTES"),
            (body({**IMAGE, "parameters": 1}), Kind.INVALID, "input images: parameters is 1"),
            (
                body({**IMAGE, "shape": None}),
                Kind.INVALID,
                "shape is None; expected a list of at",
            ),
            (
                body({**IMAGE, "shape": [-1]}),
                Kind.INVALID,
                "shape is [-1]; expected a list of at",
            ),
            (
                body({**IMAGE, "shape": [True]}),
                Kind.INVALID,
                "shape is [True]; expected a list of at",
            ),
            (body({**IMAGE, "data": [0]}), Kind.INVALID, "1 elements; shape [1, 2, 3, 1] has 6"),
            (body({**IMAGE, "data": [[0], 0]}), Kind.INVALID, "2 elements; shape [1, 2, 3, 1] has 6"),
            (body({**IMAGE, "data": 5}), Kind.INVALID, "1 elements; shape [1, 2, 3, 1] has 6"),
            (body({**IMAGE, "data": [0] * 5 + [256]}), Kind.INVALID, "input images: "),
            (body({**IMAGE, "data": [0] * 5 + [1.0]}), Kind.INVALID, "element 5 is 1.0; expected UINT8"),
            (body({**IMAGE, "data": [0] * 5 + [True]}), Kind.INVALID, "element 5 is True; expected UINT8"),
            (body({**IMAGE, "data": []}), Kind.INVALID, "0 elements; shape [1, 2, 3, 1] has 6"),
            (body(tensor("images", "UINT8", [1, 2, 3, 1])), Kind.INVALID, "neither data nor binary_data_"),
            (
                body(tensor("images", "UINT8", [1], parameters={"shared_memory_region": "r"})),
                Kind.INVALID,
                "input images has neither data nor binary_data_size",
            ),
            (body(tensor("images", "BYTES", [1], data=["é"])), Kind.INVALID, "BYTES are base64 in JSON"),
            (body(tensor("images", "BYTES", [1], data=[7])), Kind.INVALID, "BYTES are base64 in JSON"),
            (body(IMAGE, raw=b"xx"), Kind.MALFORMED, "2 bytes are left in the body after the inputs"),
            (
                body(binary("images", "UINT8", [1], 3), raw=b"xx"),
                Kind.MALFORMED,
                "size is 3; 2 bytes are",
            ),
            (body(binary("images", "UINT8", [1], -1), raw=b"x"), Kind.MALFORMED, "size is -1; 1 bytes are"),
            (body(binary("images", "UINT8", [1], "1"), raw=b"x"), Kind.MALFORMED, "size is 1; 1 bytes are"),
            (body(binary("images", "UINT8", [3], 2), raw=b"xx"), Kind.INVALID, "2 bytes; shape [3] of UINT8"),
            (
                body(binary("images", "UINT8", [0, *[(1 << 31) - 1] * 4], 0), raw=b""),
                Kind.INVALID,
                "input images: shape",
            ),
            (
                body(binary("images", "BYTES", [1], 5), raw=b"\x05\0\0\0x"),
                Kind.MALFORMED,
                "its 5 bytes are not 1 elements",
            ),
            (
                body(binary("images", "BYTES", [1], 8), raw=bytes(8)),
                Kind.MALFORMED,
                "its 8 bytes are not 1 elements",
            ),
            (body(binary("images", "BYTES", [2], 4), raw=bytes(4)), Kind.MALFORMED, "are not 2 elements"),
            (body(IMAGE, outputs={}), Kind.INVALID, "outputs is {}; expected a list"),
            (
                body(IMAGE, outputs=[{"name": "x"}]),
                Kind.INVALID,
                "output x is not one of the model's, each",
            ),
            (
                body(IMAGE, outputs=[{"name": "mu"}, {"name": "mu"}]),
                Kind.INVALID,
                "output mu is not one of the model's, each once",
            ),
            (body({**IMAGE, "shape": [1] * 9}), Kind.INVALID, "at most 8 whole numbers"),
            (body({**IMAGE, "shape": [1 << 31]}), Kind.INVALID, "whole numbers up to 2147483647"),
            (
                body({**IMAGE, "shape": [(1 << 31) - 1] * 8}),
                Kind.INVALID,
                "6 elements; shape [2147483647, 2147483647",
            ),
            (body(tensor("images", "BYTES", [1, 1], data=["aGk="])), Kind.INVALID, "BYTES have one axis"),
            (
                body(binary("images", "BYTES", [1, 1], 4), raw=bytes(4)),
                Kind.INVALID,
                "input images has shape [1, 1]; BYTES have one axis",
            ),
            (body(binary("images", "BYTES", [101], 404), raw=bytes(404)), Kind.TOO_LARGE, "101 images; the"),
            (
                body(IMAGE, outputs=[{"name": "mu", "parameters": {"classification": 3}}]),
                Kind.INVALID,
                "output mu: parameter classification is not known here; binary_data is",
            ),
        ],
    )
    def test_what_is_wrong_is_named(self, sent: tuple[bytes, str | None], kind: Kind, words: str) -> None:
        problem = refused(sent)
        assert words in problem.detail
        assert problem.kind is kind

    @pytest.mark.parametrize(
        "signature", [Signature((FILES,)), Signature((Tensor("x", Datatype.UINT8, (-1, -1)),))]
    )
    def test_a_body_without_json_needs_a_shape_that_follows_from_its_length(
        self, signature: Signature
    ) -> None:
        assert "a body without JSON says no shape" in refused((b"xxxx", "0"), signature).detail

    def test_a_body_without_json_has_whole_rows(self) -> None:
        assert "13 bytes; shape [2, 2, 3, 1] of UINT8 has 12" in refused((bytes(13), "0")).detail


class TestAnswer:
    def test_json(self) -> None:
        inference = Inference("7", {}, {}, [Wanted("mu", False)])
        response = written("encode", "1", inference, {"mu": np.array([[1, 0.5]], np.float32), "logvar": []})
        assert response.headers["content-type"] == "application/json"
        assert orjson.loads(response.body) == {
            "model_name": "encode",
            "model_version": "1",
            "id": "7",
            "outputs": [{"name": "mu", "datatype": "FP32", "shape": [1, 2], "data": [1.0, 0.5]}],
        }

    def test_raw_tensors_follow_the_json(self) -> None:
        wanted = [Wanted("seed", True), Wanted("n", False), Wanted("payload", True)]
        values = {"seed": np.array([2**63], np.uint64), "n": np.array([3]), "payload": [b"\xff", b"hi"]}
        response = written("m", "1", Inference(None, {}, {}, wanted), values)
        assert response.headers["content-type"] == "application/octet-stream"
        length = int(response.headers["inference-header-content-length"])
        document, raw = orjson.loads(response.body[:length]), bytes(response.body[length:])
        assert document["outputs"] == [
            {"name": "seed", "datatype": "UINT64", "shape": [1], "parameters": {"binary_data_size": 8}},
            {"name": "n", "datatype": "INT64", "shape": [1], "data": [3]},
            {"name": "payload", "datatype": "BYTES", "shape": [2], "parameters": {"binary_data_size": 11}},
        ]
        assert raw == (2**63).to_bytes(8, "little") + b"\x01\0\0\0\xff" + b"\x02\0\0\0hi"

    def test_bytes_are_base64_in_json(self) -> None:
        response = written(
            "m", "1", Inference(None, {}, {}, [Wanted("payload", False)]), {"payload": [b"hi"]}
        )
        assert orjson.loads(response.body)["outputs"][0]["data"] == ["aGk="]

"""A service of Envoy's ext_authz on the real grpcio and protobuf, for tests/ext_authz.rs and bench/beside_ext_auth.

Serves on a free port and prints it, then one line of JSON for each request that it is asked about. What it decides stands in the
last part of the path. Ends when its input does. The messages are declared here once more, beside those in src.
"""

import json
import sys
from concurrent import futures

import grpc
from google.protobuf import descriptor_pb2, descriptor_pool, json_format, message_factory
from google.rpc import status_pb2  # noqa: F401, for the pool

FIELD = descriptor_pb2.FieldDescriptorProto
KINDS = {
    "string": FIELD.TYPE_STRING,
    "bytes": FIELD.TYPE_BYTES,
    "int32": FIELD.TYPE_INT32,
    "int64": FIELD.TYPE_INT64,
    "uint32": FIELD.TYPE_UINT32,
    "bool": FIELD.TYPE_BOOL,
}
MESSAGES = {
    "Timestamp": {"seconds": (1, "int64"), "nanos": (2, "int32")},
    "SocketAddress": {"address": (2, "string"), "port_value": (3, "uint32")},
    "Address": {"socket_address": (1, "SocketAddress")},
    "Peer": {"address": (1, "Address"), "service": (2, "string"), "principal": (4, "string"), "certificate": (5, "string")},
    "HttpRequest": {
        "id": (1, "string"),
        "method": (2, "string"),
        "headers": (3, "map"),
        "path": (4, "string"),
        "host": (5, "string"),
        "scheme": (6, "string"),
        "query": (7, "string"),
        "size": (9, "int64"),
        "protocol": (10, "string"),
        "body": (11, "string"),
        "raw_body": (12, "bytes"),
    },
    "Request": {"time": (1, "Timestamp"), "http": (2, "HttpRequest")},
    "TLSSession": {"sni": (1, "string")},
    "AttributeContext": {
        "source": (1, "Peer"),
        "destination": (2, "Peer"),
        "request": (4, "Request"),
        "context_extensions": (10, "map"),
        "tls_session": (12, "TLSSession"),
    },
    "CheckRequest": {"attributes": (1, "AttributeContext")},
    "HeaderValue": {"key": (1, "string"), "value": (2, "string"), "raw_value": (3, "bytes")},
    "BoolValue": {"value": (1, "bool")},
    "HeaderValueOption": {"header": (1, "HeaderValue"), "append": (2, "BoolValue"), "append_action": (3, "int32")},
    "HttpStatus": {"code": (1, "int32")},
    "DeniedHttpResponse": {"status": (1, "HttpStatus"), "headers": (2, "*HeaderValueOption"), "body": (3, "string")},
    "QueryParameter": {"key": (1, "string"), "value": (2, "string")},
    "OkHttpResponse": {
        "headers": (2, "*HeaderValueOption"),
        "headers_to_remove": (5, "*string"),
        "response_headers_to_add": (6, "*HeaderValueOption"),
        "query_parameters_to_set": (7, "*QueryParameter"),
    },
    "CheckResponse": {
        "status": (1, "google.rpc.Status"),
        "denied_response": (2, "DeniedHttpResponse"),
        "ok_response": (3, "OkHttpResponse"),
        "error_response": (5, "DeniedHttpResponse"),
    },
}


def messages():
    file = descriptor_pb2.FileDescriptorProto(
        name="ext_authz.proto", package="t", syntax="proto3", dependency=["google/rpc/status.proto"]
    )
    for name, fields in MESSAGES.items():
        message = file.message_type.add(name=name)
        for field, (number, kind) in fields.items():
            added = message.field.add(name=field, number=number, label=FIELD.LABEL_OPTIONAL)
            if kind == "map":
                entry = message.nested_type.add(name="".join(part.title() for part in field.split("_")) + "Entry")
                entry.options.map_entry = True
                for number, part in enumerate(["key", "value"], 1):
                    entry.field.add(name=part, number=number, label=FIELD.LABEL_OPTIONAL, type=FIELD.TYPE_STRING)
                added.label, added.type = FIELD.LABEL_REPEATED, FIELD.TYPE_MESSAGE
                added.type_name = f".t.{name}.{entry.name}"
                continue
            if kind.startswith("*"):
                added.label, kind = FIELD.LABEL_REPEATED, kind[1:]
            if kind in KINDS:
                added.type = KINDS[kind]
            else:
                added.type = FIELD.TYPE_MESSAGE
                added.type_name = f".{kind}" if "." in kind else f".t.{kind}"
    pool = descriptor_pool.Default()
    pool.Add(file)
    return {name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"t.{name}")) for name in MESSAGES}


T = messages()


def option(key, value, **how):
    if "append" in how:
        how["append"] = T["BoolValue"](value=how["append"])
    return T["HeaderValueOption"](header=T["HeaderValue"](key=key, value=value), **how)


def answer(http):
    response = T["CheckResponse"]()
    what = http.path.partition("?")[0].rpartition("/")[2]
    if what == "ok":
        ok = response.ok_response
        response.status.code = 0
        ok.headers.extend(
            [
                option("x-user", "alice"),
                option("x-list", "theirs", append=True),
                option("x-absent", "theirs", append_action=1),
                option("x-over", "theirs", append_action=2),
                option("x-present", "theirs", append_action=3),
                option("host", "evil.test"),
                option(":path", "/evil"),
            ]
        )
        ok.headers_to_remove.extend(["authorization", "host", "x-gone"])
        ok.response_headers_to_add.extend(
            [option("set-cookie", "s=1"), option("set-cookie", "t=2"), option("x-served", "theirs", append_action=2)]
        )
    elif what == "length":
        response.ok_response.headers.append(option("content-length", "7"))
    elif what == "denied":
        response.status.code = 16
        denied = response.denied_response
        denied.status.code = 401
        denied.headers.extend([option("www-authenticate", "Custom"), option("x-more", "a"), option("connection", "close")])
        denied.body = "not you"
    elif what == "login":
        response.status.code = 7
        response.denied_response.status.code = 302
        response.denied_response.headers.extend(
            [option("location", "https://login.test/"), option("set-cookie", "state=1")]
        )
    elif what == "bare":
        response.status.code = 7
    elif what == "odd":
        response.status.code = 7
        response.denied_response.status.code = 42
    elif what == "error":
        response.status.code = 13
        response.error_response.status.code = 500
    elif what == "both":
        response.denied_response.status.code = 403
    elif what == "query":
        response.ok_response.query_parameters_to_set.add(key="a", value="b")
    elif what == "unwritable":
        response.ok_response.headers.append(option("x-user", "a\nb"))
    return response


def check(request, context):
    asked = json_format.MessageToDict(request, preserving_proto_field_name=True)
    asked["metadata"] = {name: str(value) for name, value in context.invocation_metadata()}
    print(json.dumps(asked), flush=True)
    http = request.attributes.request.http
    if http.path.startswith("/fails"):
        context.abort(grpc.StatusCode.UNAVAILABLE, "planted-secret")
    return answer(http)


server = grpc.server(futures.ThreadPoolExecutor(max_workers=8))
handler = grpc.unary_unary_rpc_method_handler(
    check, request_deserializer=T["CheckRequest"].FromString, response_serializer=T["CheckResponse"].SerializeToString
)
service = grpc.method_handlers_generic_handler("envoy.service.auth.v3.Authorization", {"Check": handler})
server.add_generic_rpc_handlers((service,))
port = server.add_insecure_port("127.0.0.1:0")
server.start()
print(port, flush=True)
sys.stdin.read()
server.stop(0)

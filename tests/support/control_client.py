"""A client of the control plane for tests/control, on the real grpcio, with messages made from the descriptors at run time.

  control_client.py DESCRIPTORS ADDRESS           makes each call of the registry and prints one JSON object: the outcome of each
  control_client.py DESCRIPTORS ADDRESS health    asks grpc.health.v1, and prints each status of a watch until that ends
"""

import json
import queue
import sys

import grpc
from google.protobuf import descriptor_pb2, descriptor_pool, json_format, message_factory

PACKAGE = "tidegate.control.v1"
HEALTH = "grpc.health.v1"
PATIENCE = 20


class Client:
    def __init__(self, descriptors, address, package=PACKAGE, service="Registry"):
        self.package = package
        files = descriptor_pb2.FileDescriptorSet.FromString(open(descriptors, "rb").read())
        self.pool = descriptor_pool.DescriptorPool()
        for file in files.file:
            self.pool.Add(file)
        self.service = self.pool.FindServiceByName(f"{package}.{service}")
        self.channel = grpc.insecure_channel(address)

    def message(self, name, fields):
        kind = message_factory.GetMessageClass(self.pool.FindMessageTypeByName(f"{self.package}.{name}"))
        return json_format.ParseDict(fields, kind())

    def method(self, name):
        method = self.service.methods_by_name[name]
        kind = message_factory.GetMessageClass(method.output_type)
        shapes = {
            (False, False): self.channel.unary_unary,
            (False, True): self.channel.unary_stream,
            (True, True): self.channel.stream_stream,
        }
        shape = shapes[(method.client_streaming, method.server_streaming)]
        path = f"/{self.service.full_name}/{name}"
        return shape(path, request_serializer=lambda m: m.SerializeToString(), response_deserializer=kind.FromString)

    def call(self, name, fields):
        request = self.message(self.service.methods_by_name[name].input_type.name, fields)
        try:
            return plain(self.method(name)(request, timeout=PATIENCE))
        except grpc.RpcError as refused:
            reasons = [value for key, value in refused.trailing_metadata() if key == "x-tidegate-reason"]
            return {"code": refused.code().name, "reason": reasons}


class Stream:
    """Messages go out as they are put in."""

    def __init__(self, client, name):
        self.client, self.requests = client, queue.Queue()
        self.input = client.service.methods_by_name[name].input_type.name
        self.answers = client.method(name)(iter(self.requests.get, None), timeout=PATIENCE)

    def put(self, fields):
        self.requests.put(self.client.message(self.input, fields))

    def next(self):
        return plain(next(self.answers))

    def end(self):
        self.requests.put(None)
        self.answers.cancel()


def plain(message):
    return json_format.MessageToDict(message, preserving_proto_field_name=True)


def health():
    client = Client(sys.argv[1], sys.argv[2], HEALTH, "Health")
    names = ["", *(f"{PACKAGE}.{name}" for name in ("Registry", "Configs", "Authority", "Peers")), "nobody"]
    print(json.dumps({name: client.call("Check", {"service": name}) for name in names}), flush=True)
    unknown = client.method("Watch")(client.message("HealthCheckRequest", {"service": "nobody"}), timeout=PATIENCE)
    print(json.dumps(plain(next(unknown))), flush=True)
    unknown.cancel()
    watch = client.method("Watch")(client.message("HealthCheckRequest", {"service": f"{PACKAGE}.Configs"}), timeout=PATIENCE)
    try:
        for status in watch:
            print(json.dumps(plain(status)), flush=True)
    except grpc.RpcError as ended:
        print(json.dumps({"ended": ended.code().name}), flush=True)
    else:
        print(json.dumps({"ended": "OK"}), flush=True)


def main():
    client = Client(sys.argv[1], sys.argv[2])
    outcome = {}
    instance = {"id": "users-1", "name": "users", "address": "10.0.0.1:80", "tags": ["v2"]}
    outcome["register"] = client.call("Register", instance)
    outcome["again"] = client.call("Register", instance)
    outcome["taken"] = client.call("Register", {**instance, "name": "payments"})
    outcome["bad_name"] = client.call("Register", {"name": "no host!", "address": "10.0.0.1:80"})
    outcome["too_large"] = client.call("Register", {**instance, "tags": ["v" * 64] * 40_000})
    outcome["discover"] = client.call("Discover", {"selector": {"name": "users", "tags": ["v2"]}})
    outcome["nobody"] = client.call("Discover", {"selector": {"name": "users", "tags": ["v1"]}})
    outcome["heartbeat"] = client.call("Heartbeat", {"beats": [{"id": "users-1"}, {"id": "nobody"}]})

    beats = Stream(client, "Heartbeats")
    beats.put({"beats": [{"id": "users-1"}]})
    first = beats.next()
    beats.put({"beats": [{"id": "nobody"}, {"id": "users-1", "health": "HEALTH_CRITICAL"}]})
    outcome["heartbeats"] = [first, beats.next()]
    beats.end()

    watch = Stream(client, "WatchServices")
    watch.put({"hello": {"node": "grpcio"}})
    watch.put({"subscribe": {"subscription": 1, "selector": {"name": "users"}}})
    updates = [watch.next()]
    client.call("Heartbeat", {"beats": [{"id": "users-1", "health": "HEALTH_HEALTHY", "weight": 7}]})
    updates.append(watch.next())
    outcome["deregister"] = client.call("Deregister", {"id": "users-1"})
    updates.append(watch.next())
    outcome["watch"] = updates
    watch.end()
    print(json.dumps(outcome))


if __name__ == "__main__":
    health() if sys.argv[3:] == ["health"] else main()

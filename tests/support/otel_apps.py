"""Applications that OpenTelemetry's own SDK for Python instruments, for tests/traffic/tracing.

  otel_apps.py serve COLLECTOR              serves on a free port, prints it, and ends when its input does
  otel_apps.py ask COLLECTOR URL HOST FORM  asks URL once for each FORM, in one trace each, and prints the traces' ids

In which form a context travels (`tracecontext`, `b3` or `b3multi`, as OTEL_PROPAGATORS calls them) is said in the field `x-form`. Both send
their spans to COLLECTOR, over HTTP in protobuf: the server each at once, so that nobody has to wait for it.
"""

import http.client
import http.server
import sys
import threading
import urllib.parse

from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.propagators.b3 import B3MultiFormat, B3SingleFormat
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

FORMS = {"tracecontext": TraceContextTextMapPropagator(), "b3": B3SingleFormat(), "b3multi": B3MultiFormat()}


def tracer(service, collector):
    provider = TracerProvider(resource=Resource.create({"service.name": service}))
    provider.add_span_processor(SimpleSpanProcessor(OTLPSpanExporter(endpoint=f"{collector}/v1/traces")))
    return provider.get_tracer(service)


def serve(collector):
    server_tracer = tracer("server", collector)

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self):
            form = FORMS[self.headers["x-form"]]
            fields = {name.lower(): value for name, value in self.headers.items()}
            with server_tracer.start_as_current_span(
                "serve", context=form.extract(fields), kind=trace.SpanKind.SERVER
            ):
                body = b"served"
            self.send_response(200)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    print(server.server_address[1], flush=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    sys.stdin.read()


def ask(collector, url, host, forms):
    client_tracer = tracer("client", collector)
    address = urllib.parse.urlsplit(url)
    for name in forms:
        with client_tracer.start_as_current_span("ask", kind=trace.SpanKind.CLIENT) as span:
            fields = {"host": host, "x-form": name}
            FORMS[name].inject(fields)
            connection = http.client.HTTPConnection(address.hostname, address.port, timeout=20)
            connection.request("GET", f"/{name}", headers=fields)
            answer = connection.getresponse()
            if (answer.status, answer.read()) != (200, b"served"):
                sys.exit(f"{name}: {answer.status}")
            connection.close()
        print(trace.format_trace_id(span.get_span_context().trace_id), flush=True)


if __name__ == "__main__":
    if sys.argv[1:2] == ["serve"] and len(sys.argv) == 3:
        serve(sys.argv[2])
    elif sys.argv[1:2] == ["ask"] and len(sys.argv) > 5:
        ask(*sys.argv[2:5], sys.argv[5:])
    else:
        sys.exit(__doc__)

// Hides files that no web server should show: a path with a segment that begins with a dot, such as /.git/config or
// /.env, is answered with 404. /.well-known stays. Other responses get the fields that stand in the configuration, one
// "name: value" in each line.
//
// The operator writes `root_id: dotfiles`.

// The functions that the gateway calls.
export * from "@solo-io/proxy-runtime/proxy";

import {
  Context,
  FilterHeadersStatusValues,
  GrpcStatusValues,
  RootContext,
  registerRootContext,
  send_local_response,
  stream_context,
} from "@solo-io/proxy-runtime";
import { BufferTypeValues, get_buffer_bytes } from "@solo-io/proxy-runtime/runtime";

class Root extends RootContext {
  fields: string[] = [];

  // In the place of the SDK's own, which has the length of the configuration written to an address that is not its own.
  onConfigure(size: u32): bool {
    this.fields = String.UTF8.decode(get_buffer_bytes(BufferTypeValues.PluginConfiguration, 0, size)).split("\n");
    return true;
  }

  createContext(context_id: u32): Context {
    return new Request(context_id, this);
  }
}

class Request extends Context {
  constructor(context_id: u32, root: Root) {
    super(context_id, root);
  }

  onRequestHeaders(count: u32, end_of_stream: bool): FilterHeadersStatusValues {
    if (!isHidden(stream_context.headers.request.get(":path"))) {
      return FilterHeadersStatusValues.Continue;
    }
    send_local_response(404, "dotfile", String.UTF8.encode("not found\n"), [], GrpcStatusValues.NotFound);
    return FilterHeadersStatusValues.StopIteration;
  }

  onResponseHeaders(count: u32, end_of_stream: bool): FilterHeadersStatusValues {
    let lines = (this.root_context as Root).fields;
    for (let i = 0; i < lines.length; i++) {
      let colon = lines[i].indexOf(":");
      if (colon > 0) {
        let name = lines[i].substring(0, colon).trim();
        stream_context.headers.response.replace(name, lines[i].substring(colon + 1).trim());
      }
    }
    return FilterHeadersStatusValues.Continue;
  }
}

function isHidden(target: string): bool {
  let query = target.indexOf("?");
  // In a variable of its own: the compiler of this SDK frees the value of such an expression too early otherwise.
  let path = query < 0 ? target : target.substring(0, query);
  let segments = path.split("/");
  for (let i = 0; i < segments.length; i++) {
    if (segments[i].startsWith(".") && segments[i] != ".well-known") return true;
  }
  return false;
}

registerRootContext((context_id: u32) => new Root(context_id), "dotfiles");

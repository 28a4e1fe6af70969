// A client of gRPC-Web by hand, as a page may have it: calls methods of grpc_interop.py and says what came of them.
async (gateway, type) => {
  const isText = type.startsWith('application/grpc-web-text');

  const encode = (message) => {
    const bytes = new TextEncoder().encode(message);
    const frame = new Uint8Array(5 + bytes.length);
    new DataView(frame.buffer).setUint32(1, bytes.length);
    frame.set(bytes, 5);
    return isText ? btoa(String.fromCharCode(...frame)) : frame;
  };

  // Each frame as soon as it is whole, with its flag.
  async function* frames(response) {
    const reader = response.body?.getReader();
    if (!reader) return;
    let text = '';
    const bytes = [];
    for (;;) {
      const { done, value } = await reader.read();
      if (done) break;
      if (isText) {
        text += new TextDecoder().decode(value);
        // Each part is padded, so padding may stand between groups.
        for (; text.length >= 4; text = text.slice(4)) {
          bytes.push(...Array.from(atob(text.slice(0, 4)), (char) => char.charCodeAt(0)));
        }
      } else {
        bytes.push(...value);
      }
      while (bytes.length >= 5) {
        const length = new DataView(Uint8Array.from(bytes.slice(1, 5)).buffer).getUint32(0);
        if (bytes.length < 5 + length) break;
        const [flag, ...frame] = bytes.splice(0, 5 + length);
        yield [flag, new TextDecoder().decode(Uint8Array.from(frame.slice(4)))];
      }
    }
    if (bytes.length || text) throw new Error(`half a frame: ${bytes} ${text}`);
  }

  const call = async (path, message, { headers = {}, onMessage } = {}) => {
    const response = await fetch(`${gateway}${path}`, {
      method: 'POST',
      headers: { 'content-type': type, 'x-grpc-web': '1', ...headers },
      body: encode(message),
    });
    const messages = [];
    let trailers;
    for await (const [flag, content] of frames(response)) {
      if (trailers) throw new Error('a frame behind the trailers');
      if (flag === 0x80) {
        trailers = new Headers(content.split('\r\n').filter(Boolean).map((line) => line.split(/: ?(.*)/, 2)));
      } else {
        messages.push(content);
        await onMessage?.(content);
      }
    }
    const found = trailers ?? response.headers;
    return {
      http: response.status,
      type: response.headers.get('content-type'),
      initial: response.headers.get('x-initial'),
      reason: response.headers.get('x-tidegate-reason'),
      messages,
      status: found.get('grpc-status'),
      message: decodeURIComponent(found.get('grpc-message') ?? ''),
      trailing: found.get('x-trailing'),
    };
  };

  const method = (name, message, options) => call(`/interop.Test/${name}`, message, options);
  return {
    unary: await method('Unary', 'message', { headers: { 'x-request': 'hello' } }),
    stream: await method('ServerStreaming', '100'),
    // The server waits with the second message until it hears that the first was read.
    held: await method('HeldStream', '', {
      onMessage: (content) => content === 'first' && method('Release', ''),
    }),
    failing: await method('Failing', '5 why: € 100%\n'),
    failing_stream: await method('FailingStream', '3'),
    unimplemented: await method('Nothing', ''),
    refused: await call('/guarded.Service/Call', ''),
  };
}

// npm's `oidc-provider`, with its own pages. The first argument is its module. It prints its port, and reads a line of JSON: where the
// application is, and what the provider is to do. Then a line of JSON on stdout is something that happened. It ends with its input.

import { generateKeyPairSync } from 'node:crypto';
import { createServer } from 'node:http';
import { createInterface } from 'node:readline';

// Node 18 has neither, and Debian 12 has Node 18.
globalThis.crypto ??= (await import('node:crypto')).webcrypto;
URL.parse ??= (url, base) => (URL.canParse(url, base) ? new URL(url, base) : null);
const { default: Provider } = await import(process.argv[2]);

const say = (happened, more = {}) => console.log(JSON.stringify({ happened, ...more }));

// Requests wait until the provider is there: its name has the port in it, and it knows the application only from then on.
let serve;
const handler = new Promise((resolve) => (serve = resolve));
const server = createServer(async (request, response) => (await handler)(request, response));

const jwk = (type, options, id) => ({ ...generateKeyPairSync(type, options).privateKey.export({ format: 'jwk' }), kid: id, use: 'sig' });

function provider(issuer, { application, secret, algorithm, backchannel, sessions, lifetime, groups }) {
  const provider = new Provider(issuer, {
    clients: [
      {
        client_id: 'shop',
        // Without a secret it is a public client.
        ...(secret ? { client_secret: secret } : { token_endpoint_auth_method: 'none' }),
        id_token_signed_response_alg: algorithm,
        redirect_uris: [`${application}/oidc/callback`],
        post_logout_redirect_uris: [`${application}/bye`],
        grant_types: ['authorization_code', 'refresh_token'],
        backchannel_logout_uri: backchannel,
        backchannel_logout_session_required: sessions,
      },
    ],
    jwks: { keys: [jwk('rsa', { modulusLength: 2048 }, 'rsa'), jwk('ed25519', {}, 'ed')] },
    enabledJWA: { idTokenSigningAlgValues: ['RS256', 'Ed25519'] },
    claims: { openid: ['sub'], email: ['email'], groups: ['groups'] },
    // Into the ID token as well.
    conformIdTokenClaims: false,
    findAccount: (_, sub) => ({
      accountId: sub,
      claims: () => ({
        sub,
        email: `${sub}@example.com`,
        groups: Array.from({ length: groups }, (_, index) => `a-group-with-a-long-name-${index}`),
      }),
    }),
    features: { backchannelLogout: { enabled: true } },
    pkce: { required: () => true },
    rotateRefreshToken: true,
    ttl: { AccessToken: lifetime, IdToken: 3600, Grant: 3600, Session: 3600, Interaction: 600, RefreshToken: 3600 },
    cookies: { keys: ['of the test'] },
    // By itself it posts to no address of this machine.
    fetch: (url, { dispatcher, ...options }) => fetch(url, options),
  });
  provider.on('grant.success', ({ oidc }) => say(oidc.params.grant_type));
  provider.on('grant.error', (_, error) => say('grant refused', { why: error.error_detail ?? error.message }));
  // What it does to all tokens of a login when a refresh token comes twice.
  provider.on('grant.revoked', () => say('grant revoked'));
  provider.on('backchannel.success', (_, client, account, session) => say('backchannel', { account, session }));
  provider.on('backchannel.error', (_, error) => say('backchannel failed', { why: error.message }));
  provider.on('end_session.success', () => say('logged out'));
  for (const name of ['authorization.error', 'end_session.error', 'end_session_confirm.error', 'server_error', 'userinfo.error']) {
    provider.on(name, (_, error) => say(name, { why: error.error_description ?? String(error.stack) }));
  }
  return provider.callback();
}

server.listen(0, '127.0.0.1', () => {
  console.log(server.address().port);
  const input = createInterface({ input: process.stdin });
  input.once('line', (line) => serve(provider(`http://127.0.0.1:${server.address().port}`, JSON.parse(line))));
  input.on('close', () => process.exit());
});

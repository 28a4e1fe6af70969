// A canary under load: the good candidate is promoted, and no request fails on the way; the bad one is rolled back, and few do.
// TARGET is a route with a canary, ADMIN the admin API, ROUTE the route's name, EXPECT `promoted` or `rolled_back`.
import http from 'k6/http';
import { check, fail, sleep } from 'k6';
import { Rate } from 'k6/metrics';

const rate = Number(__ENV.RATE || 300);
const most = Number(__ENV.DURATION || 60);
const failed = new Rate('failed_of_all');
const route = __ENV.ROUTE || 'canary';
const isGood = __ENV.EXPECT === 'promoted';

export const options = {
  scenarios: {
    load: {
      executor: 'constant-arrival-rate',
      exec: 'load',
      rate,
      timeUnit: '1s',
      duration: `${most}s`,
      preAllocatedVUs: Math.max(20, Math.ceil(rate / 20)),
      maxVUs: Math.max(100, rate),
    },
    watch: { executor: 'shared-iterations', exec: 'watch', vus: 1, iterations: 1, maxDuration: `${most + 5}s` },
  },
  thresholds: {
    checks: ['rate==1'],
    // A bad candidate is seen by few: it never gets far.
    failed_of_all: [isGood ? 'rate==0' : 'rate<0.05'],
  },
};

export function load() {
  failed.add(http.get(__ENV.TARGET).status !== 200);
}

export function watch() {
  for (let second = 0; second < most; second++) {
    const canary = http.get(`${__ENV.ADMIN}/canaries`).json().find((canary) => canary.route === route);
    if (!canary) fail(`no canary of ${route}`);
    if (canary.phase === __ENV.EXPECT) {
      check(canary, { [`is ${__ENV.EXPECT}`]: () => true });
      return;
    }
    sleep(1);
  }
  check(null, { [`is ${__ENV.EXPECT}`]: () => false });
}

// Ten times the usual rate, at once, and back: nothing fails, and afterwards it is as quick as before.
// TARGET, RATE (the usual one), STEP (seconds of each part) and P99 (ms, of the parts at the usual rate; 0 judges no
// times) say otherwise.
import http from 'k6/http';
import { check } from 'k6';

const rate = Number(__ENV.RATE || 500);
const step = Number(__ENV.STEP || 10);
const p99 = Number(__ENV.P99 || 10);
const times = {
  'http_req_duration{part:before}': [`p(99)<${p99}`],
  'http_req_duration{part:after}': [`p(99)<${p99}`],
};
const part = (name, rate, at) => ({
  executor: 'constant-arrival-rate',
  rate,
  timeUnit: '1s',
  startTime: `${at}s`,
  duration: `${step}s`,
  preAllocatedVUs: Math.max(20, Math.ceil(rate / 20)),
  maxVUs: Math.max(100, rate),
  tags: { part: name },
});

export const options = {
  discardResponseBodies: true,
  scenarios: {
    before: part('before', rate, 0),
    spike: part('spike', 10 * rate, step),
    // What the spike has left in k6's own queue ends in between.
    after: part('after', rate, 2 * step + 2),
  },
  thresholds: { http_req_failed: ['rate==0'], ...(p99 && times) },
  summaryTrendStats: ['avg', 'med', 'p(90)', 'p(99)', 'max'],
};

export default function () {
  check(http.get(__ENV.TARGET), { 'is 200': (answer) => answer.status === 200 });
}

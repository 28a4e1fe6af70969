// A rate of requests that does not wait for answers: 5,000 a second, and 99 of 100 within 10 ms.
// TARGET, RATE, DURATION and P99 (ms; 0 judges no times) say otherwise.
import http from 'k6/http';
import { check } from 'k6';

const rate = Number(__ENV.RATE || 5000);
const p99 = Number(__ENV.P99 || 10);
// What could not be asked in time was not measured either.
const times = { http_req_duration: [`p(99)<${p99}`], dropped_iterations: ['count==0'] };

export const options = {
  discardResponseBodies: true,
  scenarios: {
    rate: {
      executor: 'constant-arrival-rate',
      rate,
      timeUnit: '1s',
      duration: __ENV.DURATION || '30s',
      // As many as answer within a tenth of a second; more only where the gateway falls behind.
      preAllocatedVUs: Math.max(20, Math.ceil(rate / 50)),
      maxVUs: Math.max(100, Math.ceil(rate / 5)),
    },
  },
  thresholds: { http_req_failed: ['rate==0'], ...(p99 && times) },
  summaryTrendStats: ['avg', 'med', 'p(90)', 'p(99)', 'max'],
};

export default function () {
  check(http.get(__ENV.TARGET), { 'is 200': (answer) => answer.status === 200 });
}

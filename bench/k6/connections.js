// Connections that stay open: 10,000 WebSockets, each of which says something and hears it again. k6 takes some
// 170 KiB for each, so what this needs is a machine for k6; bench/k6/run looks at the gateway's memory meanwhile.
// TARGET (ws://), CONNECTIONS and HOLD (seconds in which all are open) say otherwise.
import ws from 'k6/ws';
import { check, sleep } from 'k6';
import { Counter } from 'k6/metrics';

const connections = Number(__ENV.CONNECTIONS || 10000);
const hold = Number(__ENV.HOLD || 30);
// Seconds in which they are opened. Not all at one moment: that would measure the queue of the kernel.
const spread = connections / 1000;
const echoed = new Counter('echoed');
const broken = new Counter('broken');

export const options = {
  scenarios: {
    open: { executor: 'per-vu-iterations', vus: connections, iterations: 1, maxDuration: `${spread + hold + 60}s` },
  },
  thresholds: { checks: ['rate==1'], broken: ['count==0'], echoed: [`count>=${connections}`] },
};

export default function () {
  const wait = Math.random() * spread;
  sleep(wait);
  const answer = ws.connect(__ENV.TARGET, {}, (socket) => {
    socket.on('open', () => socket.send('hello'));
    socket.on('message', () => {
      echoed.add(1);
      socket.setTimeout(() => socket.close(), (spread - wait + hold) * 1000);
    });
    socket.on('error', () => broken.add(1));
  });
  check(answer, { 'is 101': (answer) => answer && answer.status === 101 });
}

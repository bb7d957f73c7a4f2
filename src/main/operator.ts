// `holdfast status`, `drain` and `accept-loss`: what people ask of the controller. Each is one or a few calls of holdfast.v1.Operator; the orders
// lie in the metadata store from then on, so ending one of these commands ends nothing but its display.

import { hostname, userInfo } from 'node:os';
import { formatBytes, invalid, realClock, silentLogger } from '../base/index.js';
import { type Client, createClient, type holdfast, holdfastServices } from '../rpc/index.js';
import { type FlagSpec, Flags } from './flags.js';
import { drainText, nodesText, volumeText } from './operator-text.js';
import { openCertificates, peerAddress, securityFlags, tlsDirectory, toController } from './security.js';

type Operator = Client<holdfast.OperatorDefinition, holdfast.OperatorHandlers>;

const controllerFlag = `  --controller HOST:PORT  where the controller is                   HOLDFAST_CONTROLLER
  --tls-dir DIR           ca.crt, tls.crt and tls.key of an operator HOLDFAST_TLS_DIR
  --insecure              speak in plain text, within this machine only
`;
const controllerSpec: FlagSpec = {
  controller: { type: 'string', env: 'HOLDFAST_CONTROLLER' },
  json: { type: 'boolean' },
  ...securityFlags,
};

export const statusUsage = `holdfast status: nodes and volumes, and why they are not as they should be

  holdfast status [VOLUME]    all of them, or one volume; exit code 1 when a volume is not as it should be

${controllerFlag}  --amiss                 only volumes that are not as they should be
  --json                  one JSON object a line
`;

export const drainUsage = `holdfast drain: moves all replicas off a node or a pool

  holdfast drain NODE         of all its pools
  holdfast drain NODE/POOL    of one pool, by its id or its path

Says first what can't be moved and how much there is, and orders nothing when something is in the way. Then volume by volume a new replica is
made elsewhere and the old one deleted when the new one is in sync; no volume has fewer copies meanwhile. Ending this command ends the display
only: the order stands until it is taken back.

${controllerFlag}  --dry-run               only say what would happen
  --partly                also when some volumes can't be moved; they stay where they are
  --undo                  takes the order back; what has moved stays where it is
  --no-wait               returns when the order is recorded
  --json                  one JSON object a line
`;

export const replaceUsage = `holdfast replace: gives one replica of a volume up, and has another one made

  holdfast replace VOLUME NODE

The replica on that node, which must be out of sync (lost, failed, behind, or not the volume's any more), is deleted, whatever it is worth; then another
one is made, where it was or elsewhere. The volume is opened for it, if it is not, and must show another replica in sync.

${controllerFlag}  --json                  one JSON object a line
`;

export const forgetUsage = `holdfast forget: gives up a node, or a disk, that never returns

  holdfast forget NODE
  holdfast forget NODE/POOL   of one pool, by its id or its path

Refused while the node answers or the pool can be used, and while a volume still counts on a replica there ("holdfast drain" first). What was to be
deleted there counts as deleted. Should it come back after all, what it holds is left alone.

${controllerFlag}  --json                  one JSON object a line
`;

export const acceptLossUsage = `holdfast accept-loss: lets a volume go on without replicas that are missing for good

  holdfast accept-loss VOLUME            says what is missing, and what may be lost; changes nothing
  holdfast accept-loss VOLUME --confirm  gives it up

What was acknowledged and lies only on the missing replicas is lost for good, also when they come back later. Make sure that no engine of the volume
runs on a node that can't be reached. Who accepted what, and when, is kept in the metadata and in the controller's log.

${controllerFlag}  --give-up NODE          also gives up the replica of a node that answers; repeatable
  --confirm               do it
  --json                  one JSON object a line
`;

/** Between two looks at how a drain goes on. */
const pollMs = 1_000;
/** Before the first bytes were moved: what one rebuild writes on common disks. */
const assumedBytesPerSecond = 50 * 1024 * 1024;

function say(text: string): void {
  process.stdout.write(text.endsWith('\n') ? text : `${text}\n`);
}

const who = () => `${userInfo().username}@${hostname()}`;

async function withOperator<T>(flags: Flags, work: (operator: Operator) => Promise<T>): Promise<T> {
  const tls = tlsDirectory(flags);
  const address = peerAddress('controller', flags.text('controller'), tls);
  const part = { role: 'operator', node: null } as const;
  const trust = openCertificates(tls, part, { clock: realClock, logger: silentLogger });
  const security = toController(trust);
  const operator = createClient(address, holdfastServices.operator(), { clock: realClock, security });
  try {
    return await work(operator);
  } finally {
    operator.close();
    trust?.stop();
  }
}

/** The one operand. */
function operand(flags: Flags, what: string): string {
  if (flags.operands.length !== 1) throw invalid(`name one ${what}, not ${flags.operands.length}`);
  return flags.operands[0]!;
}

/** NODE or NODE/POOL. */
function placeOf(where: string): { node_id: string; pool: string } {
  const slash = where.indexOf('/');
  if (slash < 0) return { node_id: where, pool: '' };
  return { node_id: where.slice(0, slash), pool: where.slice(slash + 1) };
}

export async function runStatus(argv: string[], signal: AbortSignal): Promise<number> {
  const flags = new Flags(argv, { ...controllerSpec, amiss: { type: 'boolean' } }, process.env, true);
  if (flags.operands.length > 1) throw invalid('name one volume, or none for all');
  const [only = ''] = flags.operands;
  const json = flags.isSet('json');
  return withOperator(flags, async (operator) => {
    if (only === '') {
      const { nodes } = await operator.ListNodes({}, { signal });
      if (json) for (const node of nodes) say(JSON.stringify({ kind: 'node', ...node }));
      else say(nodesText(nodes));
    }
    let amiss = false;
    for (let token = ''; ; ) {
      const page = await operator.ListVolumeStates({ volume_id: only, starting_token: token }, { signal });
      for (const volume of page.volumes) {
        const isAmiss = volume.conditions.length > 0;
        amiss ||= isAmiss;
        if (!isAmiss && flags.isSet('amiss')) continue;
        say(json ? JSON.stringify({ kind: 'volume', ...volume }) : volumeText(volume));
      }
      token = page.next_token;
      if (token === '') return amiss ? 1 : 0;
    }
  });
}

export async function runDrain(argv: string[], signal: AbortSignal): Promise<number> {
  const spec: FlagSpec = {
    ...controllerSpec,
    'dry-run': { type: 'boolean' },
    partly: { type: 'boolean' },
    undo: { type: 'boolean' },
    'no-wait': { type: 'boolean' },
  };
  const flags = new Flags(argv, spec, process.env, true);
  const where = operand(flags, 'node, or node/pool');
  const place = placeOf(where);
  const json = flags.isSet('json');
  return withOperator(flags, async (operator) => {
    if (flags.isSet('undo')) {
      await operator.Drain({ ...place, undo: true, by: who() }, { signal });
      say(json ? JSON.stringify({ event: 'undone', ...place }) : `${where} takes replicas again`);
      return 0;
    }
    const planned = await operator.Drain({ ...place, dry_run: true }, { signal });
    say(json ? JSON.stringify({ event: 'plan', ...planned }) : drainText(where, planned, assumedBytesPerSecond));
    const blocked = planned.moves.some((move) => move.blocked !== '');
    if (flags.isSet('dry-run')) return blocked ? 1 : 0;
    if (blocked && !flags.isSet('partly')) {
      throw invalid(
        `nothing was ordered: not all volumes of ${where} can be moved (see above); make room for them, or say --partly`,
      );
    }
    const ordered = await operator.Drain({ ...place, by: who() }, { signal });
    if (flags.isSet('no-wait')) return 0;
    return watchDrain(operator, { place, where, json, signal, total: bytesOf(ordered) });
  });
}

interface DrainWatch {
  readonly place: { readonly node_id: string; readonly pool: string };
  readonly where: string;
  readonly json: boolean;
  readonly signal: AbortSignal;
  readonly total: number;
}

const bytesOf = ({ moves }: holdfast.DrainResponse__Output) => moves.reduce((sum, move) => sum + move.stored_bytes, 0);

/** Shows how it goes on until nothing is left that can be moved. */
async function watchDrain(operator: Operator, { place, where, json, signal, total }: DrainWatch): Promise<number> {
  const startMs = realClock.monotonicMs();
  let shown = '';
  for (;;) {
    const now = await operator.Drain({ ...place, dry_run: true }, { signal });
    if (!now.ordered) throw invalid(`the order to drain ${where} was taken back`);
    const open = now.moves.filter((move) => move.blocked === '');
    const stuck = now.moves.length - open.length;
    const left = bytesOf(now);
    const moved = Math.max(0, total - left);
    const seconds = (realClock.monotonicMs() - startMs) / 1000;
    const rate = moved > 0 ? moved / seconds : assumedBytesPerSecond;
    const text = `${now.moves.length} volumes left with ${formatBytes(left)}, ${formatBytes(moved)} moved`;
    if (text !== shown) {
      shown = text;
      const event = { event: 'progress', volumes: now.moves.length, left, moved, seconds };
      say(json ? JSON.stringify(event) : `${text}, about ${Math.ceil(left / rate)} s to go`);
    }
    if (open.length === 0) {
      const end = stuck === 0 ? `${where} is empty` : `${stuck} volumes can't be moved now and stay; the order stands`;
      say(json ? JSON.stringify({ event: 'end', stuck }) : end);
      return stuck === 0 ? 0 : 1;
    }
    await realClock.sleep(pollMs, signal).catch(() => {});
    if (signal.aborted) {
      say(
        json ? JSON.stringify({ event: 'left' }) : `the order stands: "holdfast drain ${where} --undo" takes it back`,
      );
      return 1;
    }
  }
}

export async function runReplace(argv: string[], signal: AbortSignal): Promise<number> {
  const flags = new Flags(argv, controllerSpec, process.env, true);
  const [volume, node, ...more] = flags.operands;
  if (volume === undefined || node === undefined || more.length > 0) throw invalid('name a volume and a node');
  return withOperator(flags, async (operator) => {
    await operator.ReplaceReplica({ volume_id: volume, node_id: node, by: who() }, { signal });
    const text = `the replica of ${volume} on ${node} is given up; "holdfast status ${volume}" shows the new one`;
    say(flags.isSet('json') ? JSON.stringify({ event: 'ordered', volume_id: volume, node_id: node }) : text);
    return 0;
  });
}

export async function runForget(argv: string[], signal: AbortSignal): Promise<number> {
  const flags = new Flags(argv, controllerSpec, process.env, true);
  const where = operand(flags, 'node, or node/pool');
  const place = placeOf(where);
  return withOperator(flags, async (operator) => {
    await operator.ForgetNode({ ...place, by: who() }, { signal });
    say(flags.isSet('json') ? JSON.stringify({ event: 'forgotten', ...place }) : `${where} is forgotten`);
    return 0;
  });
}

export async function runAcceptLoss(argv: string[], signal: AbortSignal): Promise<number> {
  const spec: FlagSpec = {
    ...controllerSpec,
    confirm: { type: 'boolean' },
    'give-up': { type: 'string', multiple: true },
  };
  const flags = new Flags(argv, spec, process.env, true);
  const volume = operand(flags, 'volume');
  return withOperator(flags, async (operator) => {
    const request = { volume_id: volume, by: who(), give_up_nodes: flags.list('give-up') };
    const loss = await operator.AcceptLoss({ ...request, confirmed: flags.isSet('confirm') }, { signal });
    if (flags.isSet('json')) say(JSON.stringify(loss));
    else {
      say(`${loss.done ? 'given up' : 'would be given up'}:`);
      for (const line of loss.given_up) say(`  ${line}`);
      say(`the volume goes on from: ${loss.survivors.join(', ')}`);
      say(`${loss.done ? 'lost' : 'would be lost'}: ${loss.loss}`);
      say(loss.done ? `recorded as ${loss.audit_key}` : 'nothing was changed; to do it, say --confirm');
    }
    return loss.done ? 0 : 1;
  });
}

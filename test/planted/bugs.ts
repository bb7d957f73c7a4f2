// Bugs that must be caught: each a small change of one source file, with the promise that it breaks. They are what our own mistakes
// would look like; a layer of tests that lets one pass does not prove what it is there for.

export interface PlantedBug {
  readonly name: string;
  readonly breaks: string;
  readonly file: string;
  /** What is replaced by what; each place is there once. */
  readonly edits: readonly (readonly [find: string, replace: string])[];
}

export const plantedBugs: readonly PlantedBug[] = [
  {
    name: 'acknowledge when the first replica has it',
    breaks: 'promise 1',
    file: 'src/engine/replica-set.ts',
    edits: [['      counting++;\n      appended', '      if (counting++ > 0) continue;\n      appended']],
  },
  {
    name: 'acknowledge before the local append',
    breaks: 'promise 1',
    file: 'src/replica/replica.ts',
    edits: [
      [
        '      writeBatch(this.#log, this.#tail',
        '      port.appended(items[items.length - 1]!.lastSeq);\n      writeBatch(this.#log, this.#tail',
      ],
    ],
  },
  {
    name: 'answer a flush before the sync',
    breaks: 'promise 1',
    file: 'src/engine/pipeline.ts',
    edits: [
      ['if (this.#set!.synced >= seq) return done(null);', 'if (this.#set!.committed >= seq) return done(null);'],
    ],
  },
  {
    name: 'answer a flush when the first replica has synced',
    breaks: 'promise 1',
    file: 'src/engine/replica-set.ts',
    edits: [
      [
        '      synced = Math.min(synced, link.syncedThrough);',
        '      if (counting === 1) synced = link.syncedThrough;',
      ],
    ],
  },
  {
    name: 'take a sync for one of frames that came after it',
    breaks: 'promise 1',
    file: 'src/engine/replica-set.ts',
    edits: [
      [
        'link.syncedThrough = Math.max(link.syncedThrough, Math.min(target, link.appendedThrough));',
        'link.syncedThrough = Math.max(link.syncedThrough, link.appendedThrough);',
      ],
    ],
  },
  {
    name: 'promise a lower reign after a higher one',
    breaks: 'promise 2',
    file: 'src/replica/replica.ts',
    edits: [['const refusal = this.#unusable() ?? this.#staleness(reign);', 'const refusal = this.#unusable();']],
  },
  {
    name: 'forget a promise over a restart',
    breaks: 'promise 2',
    file: 'src/replica/replica.ts',
    edits: [
      [
        '        await this.#update({ ...this.#store.current, promised: reign, cache: doubted ? null : cache });',
        "        this.#parts.logger.debug({ epoch: promised.epoch }, 'not kept');",
      ],
    ],
  },
  {
    name: 'take frames from the former port after a fence',
    breaks: 'promise 2',
    file: 'src/replica/replica.ts',
    edits: [
      [
        '    if (former !== null && former !== port) former.lose(superseded(this.volumeId, former.reign, reign));',
        '    if (former === port) return Promise.reject(closedHere(this.volumeId));',
      ],
      [
        '    if (this.#port === port) return this.#unusable();',
        '    if (port.reign !== null) return this.#unusable();',
      ],
      [
        '    if (this.#port !== port || this.#unusable() !== null) return;',
        '    if (this.#unusable() !== null) return;',
      ],
    ],
  },
  {
    name: 'do not wait for the former lease',
    breaks: 'promise 2',
    file: 'src/engine/open.ts',
    edits: [
      [
        '  if (leftMs > 0) await options.clock.sleep(leftMs);',
        '  if (leftMs > 1e9) await options.clock.sleep(leftMs);',
      ],
    ],
  },
  {
    name: 'let replies leave without a lease',
    breaks: 'promise 2',
    file: 'src/engine/reign-lease.ts',
    edits: [
      [
        '    return this.#alone() || this.#confirmedSince(this.#clock.monotonicMs() - this.#leaseMs);',
        '    return this.#alone() || this.#clock.monotonicMs() > 0;',
      ],
    ],
  },
  {
    name: 'stop counting a lost replica before the store has confirmed it',
    breaks: 'promise 6',
    file: 'src/engine/replica-set.ts',
    edits: [
      [
        '      if (!link.counted) continue;\n      counting++;',
        '      if (!link.counted || link.port === undefined) continue;\n      counting++;',
      ],
    ],
  },
  {
    name: 'trust a replica whose page cache is lost',
    breaks: 'section 6, suspect tails',
    file: 'src/engine/open.ts',
    edits: [['const proven = whole.filter(({ status }) => status.cacheSurvived);', 'const proven = whole;']],
  },
  {
    name: 'serve before the log that was taken over is synced',
    breaks: 'section 6, open',
    file: 'src/engine/open.ts',
    edits: [
      ['    await Promise.all(members.map((member) => synced(member, source.status.end.seq)));', '    void synced;'],
    ],
  },
  {
    name: 'leave a replica behind that was not brought to the common end',
    breaks: 'section 6, open',
    file: 'src/engine/open.ts',
    edits: [
      [
        '        await bringTo(source, other, durable, options.logger);',
        '        if (other.status.end.seq > source.status.end.seq) await bringTo(source, other, durable, options.logger);',
      ],
    ],
  },
  {
    name: 'take back a replica that came back with another log without a look at it',
    breaks: 'promise 5',
    file: 'src/engine/log-compare.ts',
    edits: [
      [
        '  if (end > common || beyond || damaged) await target.cut(common);',
        '  if (damaged) await target.cut(common);',
      ],
    ],
  },
  {
    name: 'join the set before what was copied is synced',
    breaks: 'promise 5',
    file: 'src/engine/catch-up.ts',
    edits: [
      [
        '    await this.#reached(link, port, () => link.syncedThrough >= joinPoint);',
        '    link.syncedThrough = joinPoint;',
      ],
    ],
  },
  {
    name: 'admit a replica that lacks a frame',
    breaks: 'promise 5',
    file: 'src/engine/catch-up.ts',
    edits: [
      ['        for (const frame of frames) port.append(', '        for (const frame of frames.slice(1)) port.append('],
    ],
  },
  {
    name: 'delete segments that are still referenced',
    breaks: 'section 5, cleaning',
    file: 'src/engine/segment-dropper.ts',
    edits: [
      [
        'return this.isBehind(entry) && this.#parts.map.references(entry.slot) === 0;',
        'return this.isBehind(entry) && this.#parts.map.references(entry.slot) < 40;',
      ],
    ],
  },
  {
    name: 'replay a log without its last record',
    breaks: 'section 5',
    file: 'src/engine/replay.ts',
    edits: [
      [
        '    for (const { bytes, offset, header } of frames) {\n      checkMac',
        '    for (const { bytes, offset, header } of frames.length > 3 ? frames.slice(0, -1) : frames) {\n      checkMac',
      ],
    ],
  },
  {
    name: 'seal a new reign with the key of the one before',
    breaks: 'section 7, (key, nonce)',
    file: 'src/agent/volumes.ts',
    edits: [
      [
        '    const reignId = random.uuid() as ReignId;',
        "    const reignId = '11111111-1111-4111-8111-111111111111' as ReignId;",
      ],
    ],
  },
  {
    name: 'show a write before it is committed',
    breaks: 'promise 2',
    file: 'src/engine/pipeline.ts',
    edits: [['this.#inFlight[this.#head]!.frame.seq <= seq) {', 'this.#inFlight[this.#head]!.frame.seq <= seq + 1) {']],
  },
  {
    name: 'grant an epoch that another engine has',
    breaks: 'promise 2',
    file: 'src/agent/reigns.ts',
    edits: [
      [
        '  return { ...record, epoch: record.epoch + 1, reignId,',
        '  return { ...record, epoch: Math.max(1, record.epoch), reignId,',
      ],
    ],
  },
];

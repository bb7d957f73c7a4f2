// Bugs that must be caught: each a small change of one source file, with the promise that it breaks. They are what our own mistakes
// would look like; a layer of tests that lets one pass does not prove what it is there for.

export interface PlantedBug {
  readonly name: string;
  readonly breaks: string;
  readonly file: string;
  readonly find: string;
  readonly replace: string;
}

export const plantedBugs: readonly PlantedBug[] = [
  {
    name: 'acknowledge when the first replica has it',
    breaks: 'promise 1',
    file: 'src/engine/replica-set.ts',
    find: '      counting++;\n      appended',
    replace: '      if (counting++ > 0) continue;\n      appended',
  },
  {
    name: 'acknowledge before the local append',
    breaks: 'promise 1',
    file: 'src/replica/replica.ts',
    find: '      writeBatch(this.#log, this.#tail',
    replace: '      port.appended(items[items.length - 1]!.lastSeq);\n      writeBatch(this.#log, this.#tail',
  },
  {
    name: 'answer a flush before the sync',
    breaks: 'promise 1',
    file: 'src/engine/pipeline.ts',
    find: 'if (this.#set!.synced >= seq) return done(null);',
    replace: 'if (this.#set!.committed >= seq) return done(null);',
  },
  {
    name: 'answer a sync of one file when another is still being synced',
    breaks: 'promise 1',
    file: 'src/engine/replica-set.ts',
    find: 'link.syncedThrough = Math.max(link.syncedThrough, Math.min(target, link.appendedThrough));',
    replace: 'link.syncedThrough = Math.max(link.syncedThrough, this.#committed);',
  },
  {
    name: 'promise a lower reign after a higher one',
    breaks: 'promise 2',
    file: 'src/replica/replica.ts',
    find: 'const refusal = this.#unusable() ?? this.#staleness(reign);',
    replace: 'const refusal = this.#unusable();',
  },
  {
    name: 'let the former port append after a fence',
    breaks: 'promise 2',
    file: 'src/replica/replica.ts',
    find: '    if (former !== null && former !== port) former.lose(superseded(this.volumeId, former.reign, reign));',
    replace: '    if (former !== null && former !== port) this.#port = former;',
  },
  {
    name: 'do not wait for the former lease',
    breaks: 'promise 2',
    file: 'src/engine/open.ts',
    find: '  if (leftMs > 0) await options.clock.sleep(leftMs);',
    replace: '  if (leftMs > 1e9) await options.clock.sleep(leftMs);',
  },
  {
    name: 'stop counting a lost replica before the store has confirmed it',
    breaks: 'promise 6',
    file: 'src/engine/replica-set.ts',
    find: '      if (!link.counted) continue;\n      counting++;',
    replace: '      if (!link.counted || link.port === undefined) continue;\n      counting++;',
  },
  {
    name: 'trust a replica whose page cache is lost',
    breaks: 'section 6, suspect tails',
    file: 'src/engine/open.ts',
    find: 'const proven = whole.filter(({ status }) => status.cacheSurvived);',
    replace: 'const proven = whole;',
  },
  {
    name: 'cut damage below what is durable as if it were a torn tail',
    breaks: 'section 5, torn or damaged',
    file: 'src/segment/recovery.ts',
    find: "if (badSeq <= durable) return { row: 'H', verdict: 'damage' };",
    replace: "if (badSeq <= durable) return { row: 'H', verdict: 'cut' };",
  },
  {
    name: 'delete a segment that is still referenced',
    breaks: 'section 5, cleaning',
    file: 'src/engine/segment-dropper.ts',
    find: 'const dead = table.entries().filter((entry) => this.isBehind(entry) && map.references(entry.slot) === 0);',
    replace: 'const dead = table.entries().filter((entry) => this.isBehind(entry) && map.references(entry.slot) < 40);',
  },
  {
    name: 'compare logs by seq only',
    breaks: 'reliability 3, rule 5',
    file: 'src/engine/log-compare.ts',
    find: 'if (known.get(frames[i]!.seq) === frames[i]!.digest) return frames[i]!.seq;',
    replace: 'if (known.has(frames[i]!.seq)) return frames[i]!.seq;',
  },
  {
    name: 'join the set before what was copied is synced',
    breaks: 'promise 5',
    file: 'src/engine/catch-up.ts',
    find: '    await this.#reached(link, port, () => link.syncedThrough >= joinPoint);',
    replace: '    link.syncedThrough = joinPoint;',
  },
  {
    name: 'seal a new reign with the key of the one before',
    breaks: 'section 7, (key, nonce)',
    file: 'src/agent/volumes.ts',
    find: '    const reignId = random.uuid() as ReignId;',
    replace: "    const reignId = '11111111-1111-4111-8111-111111111111' as ReignId;",
  },
  {
    name: 'read without a lease',
    breaks: 'promise 2',
    file: 'src/engine/replica-set.ts',
    find: '      if (link.port === undefined || now - link.confirmedMs >= LEASE_MS) return false;',
    replace: '      if (link.port === undefined && now < 0) return false;',
  },
  {
    name: 'admit a replica before the frames it lacks were sent',
    breaks: 'promise 5',
    file: 'src/engine/catch-up.ts',
    find: '        for (const frame of frames) port.append(frame.segment, frame.offset, frame.bytes, frame.seq);\n        position',
    replace:
      '        for (const frame of frames.slice(1)) port.append(frame.segment, frame.offset, frame.bytes, frame.seq);\n        position',
  },
  {
    name: 'serve before the log that was taken over is synced',
    breaks: 'section 6, open',
    file: 'src/engine/open.ts',
    find: '    await Promise.all(members.map((member) => synced(member, source.status.end.seq)));',
    replace: '    void synced;',
  },
  {
    name: 'show a write before it is committed',
    breaks: 'promise 2, reads see committed state only',
    file: 'src/engine/pipeline.ts',
    find: '    while (this.#head < this.#sent && this.#inFlight[this.#head]!.frame.seq <= seq) {',
    replace: '    while (this.#head < this.#sent && this.#inFlight[this.#head]!.frame.seq <= seq + 1) {',
  },
];

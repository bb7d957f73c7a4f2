// Bugs of parsers, the kind that takes what it must refuse or reads where nothing is: caught by fuzzing. And bugs that only show where two releases
// meet.

import type { MembershipBug } from './membership.js';

const tests = ['test/fuzz/fuzz.test.ts'] as const;
const versions = ['test/unit/versions'] as const;

export const parserBugs: readonly MembershipBug[] = [
  {
    name: 'read as many members as an entry says it has',
    breaks: 'bounds',
    file: 'src/format/control-entry.ts',
    edits: [['      need(16 + count * 32);\n', '']],
    tests,
  },
  {
    name: 'read as many items as an index says it has',
    breaks: 'bounds',
    file: 'src/format/segment-index.ts',
    edits: [['if (count < 0 || indexEntrySize(count) > length)', 'if (count < 0)']],
    tests,
  },
  {
    name: "leave an entry's checksum unchecked",
    breaks: 'promise 3',
    file: 'src/format/entry.ts',
    edits: [
      ["  if (crc32c(bytes.subarray(at + 8, at + length)) !== bytes.readUInt32LE(at + 4)) return 'checksum';\n", ''],
    ],
    tests,
  },
  {
    name: "leave a superblock's checksum unchecked",
    breaks: 'promise 3',
    file: 'src/format/superblock.ts',
    edits: [["  if (crc32c(bytes.subarray(12, HEADER + length)) !== bytes.readUInt32LE(8)) return 'checksum';\n", '']],
    tests,
  },
  {
    name: "leave a message header's checksum unchecked",
    breaks: 'protocol',
    file: 'src/wire/message.ts',
    edits: [
      ['if (crc32cShort(bytes, at, at + CHECKSUM_AT) !== bytes.readUInt32LE(at + CHECKSUM_AT)) {', 'if (at < 0) {'],
    ],
    tests,
  },
  {
    name: 'take a frame whose length overflows its bound',
    breaks: 'bounds',
    file: 'src/format/frame.ts',
    edits: [[' || bodyLength > FRAME_SIZE_MAX - FRAME_HEADER_SIZE) return', ') return']],
    tests,
  },
  {
    name: 'take the low half of a number that overflows',
    breaks: 'bounds',
    file: 'src/format/frame.ts',
    edits: [
      ["  for (let field = at + 24; field < at + 56; field += 8) if (!isSafe(bytes, field)) return 'length';\n", ''],
      ['  if (high > SAFE_HIGH) throw', '  if (high < 0) throw'],
      ['return bytes.readUInt32LE(at) + high * 0x1', 'return bytes.readUInt32LE(at) + (high & SAFE_HIGH) * 0x1'],
    ],
    tests,
  },
  {
    name: 'take a frame of a version that nobody knows',
    breaks: 'versions',
    file: 'src/format/frame.ts',
    edits: [["  if (!isFormatRead(bytes.readUInt16LE(at + 4))) return 'version';\n", '']],
    tests,
  },
  {
    name: 'take a frame that claims its own durability',
    breaks: 'promise 1',
    file: 'src/segment/frame-walk.ts',
    edits: [
      [
        'header.committedThrough >= header.seq || header.flushedThrough >= header.seq',
        'header.committedThrough > header.seq || header.flushedThrough > header.seq',
      ],
    ],
    tests,
  },
  {
    name: 'copy from before the beginning of a decompressed block',
    breaks: 'promise 3',
    file: 'src/hotpath/lz4.ts',
    edits: [
      [
        'if (offset === 0 || match < at || out + matched > outEnd) return -1;',
        'if (offset === 0 || out + matched > outEnd) return -1;',
      ],
    ],
    tests,
  },
  {
    name: 'give out blocks beyond the end of a record',
    breaks: 'promise 3',
    file: 'src/hotpath/kernel-twin.ts',
    edits: [
      [
        "if (index < 0 || index + count > header.run) return 'address';",
        "if (index < 0 || index + count > header.run + 1) return 'address';",
      ],
    ],
    tests,
  },
  {
    name: 'lose a request whose answer is of another kind',
    breaks: 'protocol',
    file: 'src/wire/remote-replica.ts',
    edits: [
      [
        'const request = this.#pending.find(head);\n        if',
        'const request = this.#pending.take(head);\n        if',
      ],
    ],
    tests,
  },
  {
    name: 'write one byte beyond the end of a device',
    breaks: 'NBD',
    file: 'src/nbd/server-transmission.ts',
    edits: [
      [
        "offset + length <= device.sizeBytes ? null : 'ENOSPC'",
        "offset + length <= device.sizeBytes + 1 ? null : 'ENOSPC'",
      ],
    ],
    tests,
  },
  {
    name: 'take a number of replicas that does not fit',
    breaks: 'parameters',
    file: 'src/control/class-keys.ts',
    edits: [['number >= 1 && number <= REPLICAS_MAX', 'number >= 1 && number <= REPLICAS_MAX + 1']],
    tests,
  },
  {
    name: 'go on with a good superblock beside one of the next release',
    breaks: 'versions',
    file: 'src/segment/superblock-store.ts',
    edits: [
      [
        "if (fault === 'version') throw",
        "if (fault === 'version' && slots.every((slot) => slot.fault !== null)) throw",
      ],
    ],
    tests: versions,
  },
  {
    name: 'cut off a frame of the next release as if a crash had torn it',
    breaks: 'versions',
    file: 'src/segment/frame-walk.ts',
    edits: [["  if (header === 'version') {", '  if (offset < 0) {']],
    tests: versions,
  },
  {
    name: 'answer an older engine in the newest version',
    breaks: 'versions',
    file: 'src/wire/wire-server.ts',
    edits: [
      ['greeting.hand(session, hello.channel, version);', 'greeting.hand(session, hello.channel, PROTOCOL.max);'],
    ],
    tests: versions,
  },
  {
    name: 'send frames to a replica that cannot check them',
    breaks: 'versions',
    file: 'src/wire/remote-replica.ts',
    edits: [['min: FORMAT_VERSION,', 'min: 0,']],
    tests: versions,
  },
  {
    name: 'drop what a newer controller wrote into a record',
    breaks: 'versions',
    file: 'src/control/nodes.ts',
    edits: [['return { ...before, ...record, pools };', 'return { ...record, pools };']],
    tests: versions,
  },
];

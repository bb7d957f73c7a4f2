// Every bound of the NBD server, with how the number was found.

import { KiB, MiB } from '../base/index.js';
import { PAYLOAD_BYTES_MAX } from './constants.js';

export interface NbdLimits {
  /** Largest payload of a read or write, in bytes. A request may be refused with EINVAL above it. */
  readonly payloadBytesMax: number;
  /** Per connection: payloads in flight plus replies the peer has not taken yet, in bytes. At least payloadBytesMax. */
  readonly inFlightBytesMax: number;
  /** Per connection: requests in flight, and (apart) reply writes that the peer has not taken yet. */
  readonly inFlightRequestsMax: number;
  /** Connections at once; further ones are closed at once. */
  readonly connectionsMax: number;
  /** Options one handshake may send before it is closed. */
  readonly optionsMax: number;
  /** Data of one option, in bytes; more is answered with ERR_TOO_BIG. */
  readonly optionBytesMax: number;
}

export const defaultLimits: NbdLimits = {
  payloadBytesMax: PAYLOAD_BYTES_MAX,
  // Two of the largest requests, so that one is received while the other is served.
  inFlightBytesMax: 2 * PAYLOAD_BYTES_MAX,
  // The kernel's driver sends 128 at a time, fio rarely more than 256. A small read in flight holds the slab of its reply, which it
  // shares with others; all slabs that a connection holds are bounded by inFlightBytesMax, too.
  inFlightRequestsMax: 1024,
  // A multi-connection client opens 4 to 16.
  connectionsMax: 256,
  // Real clients send fewer than 10.
  optionsMax: 128,
  // A name of 4096 bytes and a few queries fit many times.
  optionBytesMax: 64 * KiB,
};

/** An option whose announced data is larger than this is no option any more; the connection is closed. */
export const OPTION_SKIP_BYTES_MAX = 32 * MiB;

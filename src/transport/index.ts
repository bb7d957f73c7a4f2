export type { ByteStream, ReceiveSlab, StreamHandler, StreamListener, StreamNet } from './byte-stream.js';

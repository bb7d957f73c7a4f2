// What holder and bridge tell each other over the child's IPC channel. Never the key: the bridge sees blocks, the key is
// for the engine.

export interface Endpoint {
  readonly socketPath: string;
  readonly exportName: string;
}

export type ToBridge =
  | {
      readonly type: 'start';
      readonly endpoint: Endpoint;
      /** Names the device to the NBD server; the same for every bridge of it. */
      readonly clientId: string;
      readonly sizeBytes: number;
      readonly readOnly: boolean;
      /** A bridge before this one served the same connection. */
      readonly takeOver: boolean;
      readonly failing: boolean;
    }
  /** Where the export is now. Its name never changes. */
  | { readonly type: 'endpoint'; readonly endpoint: Endpoint }
  | { readonly type: 'size'; readonly sizeBytes: number }
  /** Answer everything with EIO from now on: the volume is another node's. There is no way back. */
  | { readonly type: 'fail' }
  | { readonly type: 'report' };

export type FromBridge =
  | { readonly type: 'negotiated'; readonly canResend: boolean }
  | { readonly type: 'connection'; readonly connected: boolean; readonly message: string }
  | { readonly type: 'report'; readonly counters: Readonly<Record<string, number>> }
  /** The last message: unmounted (null), or what broke. */
  | { readonly type: 'ended'; readonly message: string | null };

// The network between the processes of a cluster, as something that can be broken: two ways to have it, one set of faults.

/** A process's place in the network: the controller, or a node. */
export type Place = number;
export const controllerPlace: Place = 0;

export interface Network {
  /** For the report. */
  readonly kind: string;
  /** What a process of that place is started with in front of its command. */
  wrap(place: Place): readonly string[];
  /** Where a process of that place listens. */
  host(place: Place): string;
  /** The name under which others reach it. */
  advertised(place: Place): string;
  /** Called once per listening port, before anybody connects. */
  expose(place: Place, port: number): Promise<void>;
  /** What `from` sends to `to` vanishes without a word, until allowed again. */
  block(from: Place, to: Place): void;
  allow(from: Place, to: Place): void;
  /** What leaves and reaches the place is slow (some megabits a second, tens of milliseconds), until told otherwise. */
  slow(place: Place, slow: boolean): void;
  /** Every connection of the place is reset. Resolves with how many. */
  reset(place: Place): Promise<number>;
  /** Undoes all of the above. */
  heal(): void;
  close(): void;
}

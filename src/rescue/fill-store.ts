// Puts rebuilt records into an empty metadata store.

import { nameHash } from '../control/index.js';
import { keyOf, type MetadataStore, type NameRecord } from '../meta/index.js';
import { groupsOf, type RebuiltVolume } from './rebuild-metadata.js';

/** Throws what the store throws; ALREADY_EXISTS cannot be, since the store is empty. Returns sentences about names that clash. */
export async function fillStore(store: MetadataStore, rebuilt: readonly RebuiltVolume[]): Promise<string[]> {
  const notes: string[] = [];
  const put = async (key: string, value: object): Promise<boolean> => (await store.compareAndSwap(key, 0, value)).ok;
  for (const { volume, snapshots, rescue } of rebuilt) {
    await put(keyOf.volume(volume.id), volume);
    await put(keyOf.rescue(volume.id), rescue);
    for (const snapshot of snapshots) await put(keyOf.snapshot(snapshot.id), snapshot);
    const name: NameRecord = { name: volume.name, id: volume.id };
    if (volume.name === '') notes.push(`volume ${volume.id} has no name in its superblock: it is found by its id only`);
    else if (!(await put(keyOf.volumeName(nameHash(volume.name)), name)))
      notes.push(
        `volume ${volume.id} has the name ${JSON.stringify(volume.name)} of another one: it is found by its id only`,
      );
  }
  for (const group of groupsOf(rebuilt.flatMap(({ snapshots }) => snapshots))) await put(keyOf.group(group.id), group);
  return notes;
}

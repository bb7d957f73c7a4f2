export type { Choice } from './choose-replica.js';
export type { Copied, Sink } from './copy-volume.js';
export { volumeFacts, volumeText } from './describe-volume.js';
export { fillStore } from './fill-store.js';
export { byVolume, type FoundPlaces, findReplicas, type ReplicaPlace } from './find-replicas.js';
export { type FoundVolume, inspectVolume } from './inspect-volume.js';
export { type ReadEvents, type ReadOrder, readVolume } from './read-volume.js';
export { MARGIN, type RebuiltVolume, rebuildVolume, unknown } from './rebuild-metadata.js';

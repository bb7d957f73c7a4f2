// The labels by which nodes are told apart and grouped.

export { NODE_LABEL } from '../control/index.js';
export const ZONE_LABEL = 'topology.holdfast.io/zone';

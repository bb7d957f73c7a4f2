// The labels by which nodes are told apart and grouped.

export { NODE_LABEL, ZONE_LABEL } from '../control/index.js';

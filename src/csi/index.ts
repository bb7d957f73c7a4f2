export { controllerService } from './controller/index.js';
export { groupControllerService } from './group/index.js';
export { type IdentityOptions, identityService } from './identity/index.js';
export { snapshotMetadataService } from './metadata/index.js';
export { type NodeContext, nodeService } from './node/index.js';
export { PLUGIN_NAME } from './plugin.js';

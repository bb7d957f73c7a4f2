export { checkCluster, checkNode, checkPart, checkRole } from './access.js';
export {
  Certificates,
  type CertificatesOptions,
  ToldTrust,
  type Trust,
} from './certificates.js';
export { type Credentials, fileNames } from './credentials.js';
export { HANDSHAKE_MS, Handshakes, PENDING_MAX, socketPeer } from './handshakes.js';
export {
  hasNode,
  type Identity,
  identityOf,
  parseCluster,
  parsePart,
  partOf,
  type Role,
  roles,
  uriOf,
} from './identity.js';
export { Refusals } from './refusals.js';
export {
  badHandshake,
  clientOptions,
  contextOptions,
  handshakeProblem,
  identify,
  identifySocket,
  serverOptions,
} from './tls.js';

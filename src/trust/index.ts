export { checkCluster, checkNode, checkPart, checkRole } from './access.js';
export {
  Certificates,
  type CertificatesOptions,
  type Credentials,
  fileNames,
  ToldTrust,
  type Trust,
} from './certificates.js';
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
  HANDSHAKE_MS,
  handshakeProblem,
  identify,
  identifySocket,
  serverOptions,
} from './tls.js';

export { alignedBuffer } from './aligned.js';
export {
  createFilesystems,
  type FilesystemStats,
  type Filesystems,
  type FsType,
  fsTypes,
  type Probed,
  parseBlkid,
  parseFsType,
} from './filesystem.js';
export { type MountEntry, mountsUsing, parseFindmnt } from './findmnt.js';
export { type BindMount, createMounter, type Mounter, type MountFilesystem } from './mounter.js';
